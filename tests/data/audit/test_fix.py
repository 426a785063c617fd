"""The cleaned file: what is left of each form of record, whole or not there, and without any fault that was mended."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data.audit.kinds import KINDS
from alpaca_jax.data.audit.report import Report
from alpaca_jax.data.audit.run import Request, audit
from alpaca_jax.support.errors import UserError

MENDED = [kind for kind in KINDS if KINDS[kind].policy != "left"]


def plain(instruction: str, input: str, output: str) -> dict[str, Any]:
    return {"instruction": instruction, "input": input, "output": output}


def fixed(folder: Path, text: str | bytes, *more: str, **options: Any) -> tuple[Report, str, list[dict[str, Any]]]:
    """The report, the cleaned file's text, and its log's lines."""
    paths = []
    for number, content in enumerate((text, *more)):
        paths.append(folder / f"in{number}.json")
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    out = folder / "out.json"
    report = audit(Request(tuple(paths), fix=out, **options))
    log = [json.loads(line) for line in (folder / "out.json.log.jsonl").read_text().splitlines()]
    return report, out.read_text(), log


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_a_list_stays_a_list_and_lines_stay_lines(tmp_path: Path):
    records = [plain("Add.", "", "3"), {**plain("Name a colour.", "No input", "Blue."), "id": 7}]
    left = [records[0], {**plain("Name a colour.", "", "Blue."), "id": 7}]
    for number, (content, read) in enumerate(
        [
            (json.dumps(records, indent=1), json.loads),
            (lines(*records), lambda text: [json.loads(line) for line in text.splitlines()]),
            (gzip.compress(lines(*records).encode()), lambda text: [json.loads(line) for line in text.splitlines()]),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        report, text, log = fixed(tmp_path / str(number), content)
        assert read(text) == left
        (change,) = log
        assert change.pop("file").endswith("in0.json")
        assert (change["record"], change["kind"]) == (2, "noinput")
        assert (change["before"]["input"], change["after"]["input"]) == ("No input", "")
        assert (report.changed, report.dropped, report.added, report.clean) == (1, 0, 0, 1)


def test_each_form_of_record_keeps_its_form(tmp_path: Path):
    merged = "Blue.\n##\n5. Instruction: Name a metal.\n5. Input:\n<noinput>\n5. Output:\nTin."
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
    task = {"id": "t", "instruction": "Name a colour.", "is_classification": False}
    missing = {"instruction": "Add.", "output": "3\x07"}
    report, text, log = fixed(
        tmp_path,
        lines(
            {
                **task,
                "instances": [{"input": "N/A", "output": merged}, {"output": ""}, {"input": "", "output": "Red."}],
            },
            {**task, "instances": [{"input": "", "output": "<nooutput>"}]},
            {"messages": [*chat, {"role": "assistant", "content": merged}], "id": 1},
            {"messages": [*chat, {"role": "assistant", "content": " "}]},
            missing,
        ),
    )
    assert [json.loads(line) for line in text.splitlines()] == [
        {**task, "instances": [{"input": "", "output": "Blue."}, {"input": "", "output": "Red."}]},
        {"instruction": "Name a metal.", "instances": [{"input": "", "output": "Tin."}]},
        {"messages": [*chat, {"role": "assistant", "content": "Blue."}], "id": 1},
        {"messages": [{"role": "user", "content": "Name a metal."}, {"role": "assistant", "content": "Tin."}]},
        {"instruction": "Add.", "output": "3"},
    ]
    assert (report.records, report.dropped, report.added, report.left) == (5, 2, 2, 5)
    assert [change["record"] for change in log if change.get("dropped")] == [1, 2, 4]


def test_a_copy_is_dropped_wherever_and_however_it_arises(tmp_path: Path):
    colour = plain("Name a colour.", "", "Blue.")
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    report, text, _ = fixed(
        tmp_path,
        lines(colour, chat, plain("Name a colour.", "No input", "Blue."), plain("Name a colour.", "", "Red.")),
        json.dumps([colour, chat, {"messages": chat["messages"] * 2}]),
    )
    assert [json.loads(line) for line in text.splitlines()] == [
        colour,
        chat,
        plain("Name a colour.", "", "Red."),
        {"messages": chat["messages"] * 2},
    ]
    assert report.counts["duplicate"] == 3
    assert "in0.json, line 1" in report.examples["duplicate"][0].why


def test_what_is_in_the_evaluation_set_is_dropped(tmp_path: Path):
    letter = "Dear Sir, the delivery of the twelve chairs that we ordered in May has still not come to our office."
    other = "Dear Madam, thank you for the parcel of books; my sister has already read two of them with great joy."
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text(
        lines(
            {
                "id": "u0",
                "instruction": "Make this letter friendlier.",
                "instances": [{"input": letter, "output": "x"}],
            },
            {
                "id": "u1",
                "instruction": "Name the capital of Kenya.",
                "instances": [{"input": "", "output": "Nairobi"}],
            },
        )
    )
    kept = [plain("Make this letter friendlier.", "Dear Ann, where are my keys? I have lost them.", "Dear Ann, …")]
    report, text, _ = fixed(
        tmp_path,
        lines(
            plain("Please name the capital of Kenya.", "", "Nairobi."),
            plain("Read the first of these letters and say what was ordered.", f"{letter} {other}", "Chairs."),
            *kept,
        ),
        evaluation=(evaluation,),
    )
    assert [json.loads(line) for line in text.splitlines()] == kept
    first, second = report.examples["contaminated"]
    assert first.why.startswith("F 0.91 with")
    assert "eval.jsonl, line 2: “Name the capital of Kenya.”" in first.why
    assert "of its 17 runs of 8 words" in second.why


def test_words_of_any_script_tell_what_is_in_the_evaluation_set(tmp_path: Path):
    """Of which ROUGE's own words, of a–z and 0–9, see only what is Latin in them."""
    evaluation = tmp_path / "eval.jsonl"
    asked = [
        "写出1到10之间的质数。",
        "请用Python写一个快速排序函数。",
        "Что такое HTTP?",
        "¿¿??",
        "Où est née Marie Curie ?",
    ]
    evaluation.write_text(lines(*({"id": f"u{n}", "instruction": text} for n, text in enumerate(asked))))
    kept = [
        plain("1公里等于多少米？用10进制回答。", "", "1000米。"),
        plain("Python里的列表推导式是什么？", "", "一种简短的写法。"),
        plain("Как настроить сервер HTTP на своём компьютере?", "", "Возьмите nginx."),
    ]
    again = [plain(text.upper(), "", "x y z") for text in asked]
    report, text, _ = fixed(tmp_path, lines(*kept, *again), evaluation=(evaluation,))
    assert [json.loads(line) for line in text.splitlines()] == kept
    assert report.counts["contaminated"] == len(asked)


def test_a_field_that_utf_8_cannot_hold_is_kept(tmp_path: Path):
    record = plain("Name a colour.", "", "Red is one.") | {"id": "\ud800", "wörd": "ü"}
    _, text, _ = fixed(tmp_path, json.dumps(record) + "\n" + lines(SOUND))
    assert [json.loads(line) for line in text.splitlines()] == [record, SOUND]


def test_near_duplicates_are_counted_against_everything_earlier_and_left(tmp_path: Path):
    records = [
        plain("Describe the history of the bicycle in a few words.", "", "It began in 1817."),
        plain("Describe the history of the bicycle in many words.", "", "It began long ago, in 1817."),
        plain("Name a metal.", "", "Tin."),
        {
            "instruction": "Sort it.",
            "instances": [{"input": "2 1", "output": "1 2"}, {"input": "b a", "output": "a b"}],
        },
        plain("Sort it.", "4 3", "3 4"),
    ]
    report, text, log = fixed(tmp_path, lines(*records))
    assert text == lines(*records)
    assert log == []
    assert [(example.record, example.why[:6]) for example in report.examples["near_duplicate"]] == [
        (2, "F 0.84"),
        (5, "F 1.00"),
    ]


FRAGMENTS = [
    *(
        "Blue.",
        "Name a colour.",
        "<noinput>",
        "No input",
        "N/A",
        "<nooutput>",
        "",
        "It is",
        "in 20",
        "1-",
        "1. ",
        "```",
    ),
    *(
        "5. Instruction: Add.\n",
        "5. Input:\n",
        "5. Output:\n3\n",
        "### Instruction:\nAdd.\n",
        "### Response:\n3",
        "##\n",
    ),
    *("##\n", "1. ", "Itâ€™s", "\x93", "\ufeff", "\ufffd", "\x0b", "é", "\n", "[Image]", "https://example.org"),
    *("Describe the following photo.", "They fly. They eat. They sing. Nobody has ever seen one of them by day"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(" ".join)


def chat(texts: list[str]) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}


RECORDS = st.one_of(
    st.builds(plain, TEXTS, TEXTS, TEXTS),
    st.builds(
        lambda instruction, instances: {"instruction": instruction, "instances": instances},
        TEXTS,
        st.lists(st.builds(lambda i, o: {"input": i, "output": o}, TEXTS, TEXTS), min_size=1, max_size=3),
    ),
    st.builds(chat, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=2).map(lambda t: [x for p in t for x in p])),
)
SOUND = plain("Which metal melts in the hand?", "", "Gallium.")


@settings(max_examples=80, deadline=None)
@given(st.lists(RECORDS, max_size=6), st.booleans())
def test_nothing_that_was_mended_is_found_again(records: list[dict[str, Any]], listed: bool):
    records = [SOUND, *records]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, text, log = fixed(folder, json.dumps(records) if listed else lines(*records))
        again = audit(Request((folder / "out.json",), fix=folder / "again.json"))
        assert {kind: again.counts[kind] for kind in MENDED} == dict.fromkeys(MENDED, 0)
        assert (folder / "again.json").read_text() == text
        assert again.records == report.left
        assert {change["kind"] for change in log} == {kind for kind in MENDED if report.counts[kind]}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"fix": ""}, "a file to write; found a folder"),
        ({"fix": "in.json"}, "another file than those read"),
        ({"fix": "there.json"}, "does not exist yet"),
        ({"fix": "logged.json"}, "logged.json.log.jsonl: expected a file that does not exist yet"),
        ({"fix": "out.json.gz"}, "without compression"),
        ({"near": 0.0}, "--near"),
        ({"near": 1.5}, "--near"),
        ({"seq_len": 8}, "--tokenizer with it"),
        ({"tokenizer": "t"}, "--seq_len with it"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(tmp_path: Path, flags: dict[str, Any], said: str):
    for name in ("in.json", "there.json", "logged.json.log.jsonl"):
        (tmp_path / name).write_text(lines(SOUND))
    before = sorted(tmp_path.iterdir())
    if "fix" in flags:
        flags = {"fix": tmp_path / flags["fix"]}
    with pytest.raises(UserError, match=said):
        audit(Request((tmp_path / "in.json",), **flags))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines(SOUND) * 3 + '{"instruction": 5, "output": "b"}', "line 4: expected `instruction` to be a text"),
        (lines(SOUND, chat(["Hi"])), "line 2: expected `messages` to end with the assistant"),
        (json.dumps([SOUND]) + "x", "nothing after the end of the list"),
        ("", "no record at all"),
        (lines(plain("Name a colour.", "", "")), "at least one record to keep"),
    ],
)
def test_a_file_that_cannot_be_cleaned_leaves_nothing(tmp_path: Path, content: str, said: str):
    with pytest.raises(UserError, match=said):
        fixed(tmp_path, content)
    assert [path.name for path in tmp_path.iterdir()] == ["in0.json"]
