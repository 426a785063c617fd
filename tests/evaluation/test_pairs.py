"""Pairs: the same questions brought together, blind, and what does not fit refused in one line."""

import json
from pathlib import Path

import pytest

from alpaca_jax.evaluation.pairs import read_key, read_pairs
from tests.evaluation.files import OURS, QUESTIONS, THEIRS, answers, evaluated, paired, write_lines
from tests.programs import the_one_line


def test_each_answer_is_under_the_letter_that_the_key_says_and_no_name_is_in_the_pair_file(tmp_path: Path):
    path = paired(tmp_path)
    pairs = read_pairs(path)
    key = read_key(path, pairs)
    assert (key.model, key.baseline, key.identical) == ("Ours-7B", "Theirs-3", ("task 4", "task 7"))
    assert [pair.id for pair in pairs.pairs] == [f"task {n}" for n in range(12) if n not in (4, 7)]
    for pair in pairs.pairs:
        number = int(pair.id.split()[1])
        ours, theirs = (pair.a, pair.b) if key.a[pair.id] == "model" else (pair.b, pair.a)
        assert (ours, theirs) == (OURS[number].strip(), THEIRS[number].strip())
        assert (pair.instruction, pair.input) == (QUESTIONS[number]["instruction"], QUESTIONS[number]["input"])
    assert set(key.a.values()) == {"model", "baseline"}  # not always the same letter
    content = path.read_text()
    assert not any(word in content for word in ("Ours-7B", "Theirs-3", "baseline", "ours.jsonl"))


def test_each_annotator_has_an_order_and_sides_of_their_own_which_stay(tmp_path: Path):
    pairs = read_pairs(paired(tmp_path))
    anna, ben = pairs.sheet("Anna"), pairs.sheet("Ben")
    assert anna == read_pairs(tmp_path / "pairs.json").sheet("Anna")
    assert sorted(shown.pair.id for shown in anna) == sorted(pair.id for pair in pairs.pairs)
    assert [shown.pair.id for shown in anna] != [shown.pair.id for shown in ben]
    assert {shown.pair.id: shown.left for shown in anna} != {shown.pair.id: shown.left for shown in ben}
    # Nor can the side be foretold from the one before.
    assert len({tuple(shown.left for shown in pairs.sheet(f"annotator {n}")) for n in range(9)}) > 5
    for sheet in (anna, ben):
        assert sum(shown.left == "a" for shown in sheet) == 5  # of 10
        assert all({shown.left, shown.right} == {"a", "b"} for shown in sheet)


def test_questions_meet_whatever_the_form_and_the_order_of_their_files(tmp_path: Path):
    """As the published answers of Alpaca (input joined) and of text-davinci-003 (a field `response`) come."""
    joined = tmp_path / "joined.json"
    texts = ["\n\n".join(filter(None, [one["instruction"], one["input"]])) for one in QUESTIONS]
    joined.write_text(json.dumps([{"instruction": text, "output": f"{n}"} for n, text in enumerate(texts)][::-1]))
    fields = [
        {"instruction": one["instruction"] + "\n", "input": one["input"], "response": f" r{n}", "target": "x"}
        for n, one in enumerate(QUESTIONS)
    ]
    responses = write_lines(tmp_path / "responses.jsonl", fields)
    out = tmp_path / "pairs.json"
    counts = evaluated("pair", f"--answers={joined}", f"--baseline={responses}", f"--out={out}")
    assert counts == {"pairs": 12, "identical": 0, "model": "joined", "baseline": "responses"}
    pairs = read_pairs(out)
    for pair in pairs.pairs:
        assert {pair.a, pair.b} == {number := pair.instruction.split()[1].rstrip("."), f"r{number}"}
        assert pair.input == QUESTIONS[int(number)]["input"]  # from the file that has it apart


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "none to 1 of these questions, such as 'task 11'"),
        (lambda lines: [*lines, {"instruction": "More", "output": "y"}], "found 13 answers"),
        (lambda lines: [*lines[:-1], lines[-1] | {"instruction": "Other"}], "'task 11': 'Say 11. twice'"),
        (
            lambda lines: [*lines[:-1], lines[-1] | {"id": "task 3"}],
            "line 12: expected an id of its own; found 'task 3'",
        ),
        (lambda lines: [{"id": "task 0", "instruction": "Say 0."}, *lines[1:]], "line 1: expected an object with"),
        (lambda lines: [lines[0] | {"instruction": " ", "input": ""}, *lines[1:]], "expected an instruction; found an"),
        (lambda lines: [{"output": "x"}, *lines[1:]], "line 1: expected a field `instruction`"),
        (lambda lines: [{"instruction": "Say 0.", "instances": [{"input": ""}]}, *lines[1:]], "a field `output`"),
        (lambda lines: [{"messages": [{"role": "user", "content": "Say 0."}]}, *lines[1:]], "end with the assistant"),
        (lambda lines: [], "expected instructions; found none"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, change, said: str):
    ours, theirs = answers(tmp_path / "a.jsonl", OURS, "A"), answers(tmp_path / "b.jsonl", THEIRS, "B")
    write_lines(theirs, change([json.loads(line) for line in theirs.read_text().splitlines()]))
    line = the_one_line("evaluate", "pair", f"--answers={ours}", f"--baseline={theirs}", f"--out={tmp_path}/p.json")
    assert said in line
    assert "b.jsonl" in line
    assert not (tmp_path / "p.json").exists()


def test_models_that_cannot_be_told_apart_and_files_that_are_there_are_refused(tmp_path: Path):
    ours, theirs = answers(tmp_path / "a.jsonl", OURS, "M"), answers(tmp_path / "b.jsonl", THEIRS, "M")
    flags = [f"--answers={ours}", f"--baseline={theirs}", f"--out={tmp_path}/p.json"]
    assert "--model_name" in the_one_line("evaluate", "pair", *flags)
    assert evaluated("pair", *flags, "--model_name=new")["model"] == "new"
    assert "does not exist yet" in the_one_line("evaluate", "pair", *flags, "--model_name=new")


def test_a_pair_file_that_was_changed_or_a_key_of_another_is_refused(tmp_path: Path):
    path = paired(tmp_path)
    votes = write_lines(tmp_path / "v.jsonl", [{"pair": "task 1", "annotator": "x", "vote": "a"}])
    flags = [f"--votes={votes}", f"--pairs={path}"]
    whole, key = path.read_text(), path.with_name("pairs.key.json").read_text()
    path.write_text(whole.replace("ours 1 ", "better 1 "))
    assert "a changed file" in the_one_line("evaluate", "report", *flags)
    path.write_text(whole)
    path.with_name("pairs.key.json").write_text(key.replace('"sha256": "', '"sha256": "0'))
    assert "that of other pairs" in the_one_line("evaluate", "report", *flags)
    for change in ({"a": {pair: [] for pair in json.loads(key)["a"]}}, {"identical": [{}]}):
        path.with_name("pairs.key.json").write_text(json.dumps(json.loads(key) | change))
        assert "who wrote that answer of each pair" in the_one_line("evaluate", "report", *flags)
