"""The program: one file with each fault once, and files that have none."""

import json
from pathlib import Path

import pytest

from alpaca_jax.data.audit.kinds import KINDS
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from tests.programs import run, the_one_line

# Kind → a record that has this fault alone.
FAULTY = {
    "mojibake": ("Name a river of France.", "", "The RhÃ´ne is a river of France."),
    "control_character": ("Who wrote Faust?", "", "Goethe\x0bwrote it."),
    "replacement_character": ("Which tree bears acorns?", "", "The oak\ufffd does."),
    "merged": ("Add two.", "3", "5\n##\n9. Instruction: Subtract one.\n9. Input:\n3\n9. Output:\n2"),
    "noinput": ("What do bees make?", "<noinput>", "Honey."),
    "empty_output": ("How many legs has a spider?", "", " "),
    "no_output": ("Make the walls red.", "", "<nooutput>"),
    "missing_material": ("Tell me what this article says.", "https://example.org/news/1", "It says that all is well."),
    "cut_answer": ("When did the dam break?", "", "The dam broke on a cold night in 20"),
    "contaminated": ("Name the largest desert of Asia.", "", "The Gobi."),
    "duplicate": ("Say good night.", "", "Good night."),
    "near_duplicate": ("Name the four seasons of one year.", "", "They are spring, summer, autumn and winter."),
    "beyond_text": ("What is the current temperature in Oslo?", "", "It is 3 degrees."),
    "too_long": ("Count as far as you can.", "", " ".join(map(str, range(400))) + "."),
}
# Each looks like one of the kinds.
SOUND = [
    ("When was the bank founded?", "", "The bank was founded in 2008."),
    ("Explain how photography works.", "", "Light falls through a lens onto a film."),
    ("Spell café backwards.", "", "éfac"),
    ("Which numbers below 2 are prime?", "", "None"),
    ("List reasons to walk.", "", "1. Fresh air\n2. Health\n3. Quiet"),
    ("Sort these from small to large.", "[3, 1, 2]", "[1, 2, 3]"),
    ("Which protocol does this address use?", "https://example.org", "It uses HTTPS."),
    ("Turn this into a question.", "There was no input from them.", "Was there no input from them?"),
    ("Say good night.", "", "Good night."),
    ("Name the four seasons of the year.", "", "Spring, summer, autumn, winter."),
]


def as_records(rows: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows]


@pytest.fixture
def made(tmp_path: Path) -> list[str]:
    """The flags for a file with each fault once, and for what finds the faults."""
    rows = [*SOUND, *FAULTY.values()]
    (tmp_path / "made.json").write_text(json.dumps(as_records(rows)))
    (question,) = as_records([FAULTY["contaminated"]])
    del question["output"]  # which a set of questions, as the package's own, has not got
    (tmp_path / "eval.jsonl").write_text(json.dumps(question))
    flags = {"input": "made.json", "eval": "eval.jsonl"}
    files = [f"--{name}={tmp_path / file}" for name, file in flags.items()]
    return [*files, f"--tokenizer={TOKENIZER}", "--seq_len=512"]


def test_each_fault_is_found_once_with_its_place(made: list[str]):
    code, out, err = run("audit", *made, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert out.count("\n") == 1
    for number, kind in enumerate(FAULTY, start=len(SOUND) + 1):
        assert report["kinds"][kind]["count"] == 1, kind
        (example,) = report["kinds"][kind]["examples"]
        assert example["record"] == number, kind
        assert example["file"].endswith("made.json")
        assert report["kinds"][kind]["share"] == round(1 / report["records"], 6)
    assert list(report["kinds"]) == list(KINDS)
    assert report["records"] == len(SOUND) + len(FAULTY)
    assert report["clean"] == len(SOUND)


def test_the_report_for_people(made: list[str], tmp_path: Path):
    code, out, err = run("audit", *made, f"--fix={tmp_path / 'clean.json'}")
    assert code == 0, err
    assert "24 records, 10 without a fault" in out
    lines = out.splitlines()
    for kind in KINDS:
        (row,) = [line for line in lines if line.split()[:1] == [kind] and "%" in line]
        assert row.split()[1] == "1"
    assert "record 16, line 1: the output is empty" in out
    # One is split, and dropped are those with no output, none to speak of, no material, one cut, known and doubled.
    assert f"{tmp_path / 'clean.json'}: 19 records (4 changed, 6 dropped, 1 added)" in out
    assert "\x1b" not in out
    assert len(json.loads((tmp_path / "clean.json").read_text())) == 19


def test_the_embedded_tasks_are_sound():
    code, out, _ = run("audit", f"--input={SEED_TASKS}", "--json", "--near=0.95")
    assert code == 0
    report = json.loads(out)
    assert report["clean"] == report["records"], {k: v["examples"] for k, v in report["kinds"].items() if v["count"]}
    assert "too_long" not in report["kinds"]
    assert "contaminated" not in report["kinds"]


def test_a_fault_of_structure_is_the_reader_s_line(tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    assert "bad.jsonl, line 2: expected a field `output`" in the_one_line("audit", f"--input={tmp_path / 'bad.jsonl'}")
    assert "tokenizer" in the_one_line("audit", f"--input={SEED_TASKS}", f"--tokenizer={tmp_path}", "--seq_len=8")
    assert "--near" in the_one_line("audit", f"--input={SEED_TASKS}", "--near=2")
