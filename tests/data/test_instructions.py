import json
import os

import pytest

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.data.instructions import Instruction, read_instructions
from alpaca_jax.support.errors import UserError

RECORDS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hé 🦙\n"},
    {"instruction": "Greet.", "input": None, "output": "", "text": "a field that nobody asked for"},
    {"instruction": "Greet.", "output": "Hi"},
]
EXPECTED = [
    Instruction("Add.", "1 and 2", "3"),
    Instruction("Greet.", "", "Hé 🦙\n"),
    Instruction("Greet.", "", ""),
    Instruction("Greet.", "", "Hi"),
]
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)


@pytest.mark.parametrize(
    "content",
    [json.dumps(RECORDS), "\n\n " + json.dumps(RECORDS, indent=1), LINES, "\n" + LINES.replace("\n", "\n\n") + "\n"],
    ids=["list", "indented list", "lines", "lines with blank ones"],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data"])
def test_the_content_decides_the_form(tmp_path, content, name):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert list(read_instructions(path)) == EXPECTED


def test_a_self_instruct_task_gives_an_instruction_for_each_instance(tmp_path):
    instances = [{"input": "1 and 2", "output": "3"}, {"output": "4"}]
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"id": "t0", "instruction": "Add.", "instances": instances}))
    assert list(read_instructions(path)) == [Instruction("Add.", "1 and 2", "3"), Instruction("Add.", "", "4")]


def test_the_embedded_tasks():
    assert len(list(read_instructions(SEED_TASKS))) >= 175


GOOD = '{"instruction": "a", "output": "b"}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no record at all"),
        (b" \n\t\n", "no record at all"),
        (b"[]", "no record at all"),
        (b"not json", "line 1: expected one JSON value"),
        (b'[{"instruction": "a", "output": "b"}, {', "expected a JSON file"),
        (GOOD.encode() + b'{"instruction": "a"', "line 2: expected one JSON value"),
        (GOOD.encode() + b'{"instruction": "a"}', "line 2: expected a field `output`"),
        (b'{"output": "b"}', "line 1: expected a field `instruction`"),
        (b'[{"instruction": "a", "output": "b"}, 3]', "record 2: expected an object"),
        (b'[["a", "b"]]', "record 1: expected an object"),
        (b'{"instruction": 5, "output": "b"}', "`instruction` to be a text; found 5"),
        (b'{"instruction": "a", "output": null}', "`output` to be a text; found None"),
        (b'{"instruction": "a", "input": ["x"], "output": "b"}', "`input` to be a text"),
        (b'{"instruction": "a", "instances": []}', "`instances`"),
        (b'{"instruction": "a", "instances": {"output": "b"}}', "`instances`"),
        (b'{"instruction": "a", "instances": [{"output": "b"}, "c"]}', "line 1, instance 2: expected an object"),
        (b'{"instruction": "a", "instances": [{"input": "b"}]}', "instance 1: expected a field `output`"),
        (rb'{"instruction": "a\u0000", "output": "b"}', "NUL"),
        (b'{"instruction": "a\x00", "output": "b"}', "line 1"),
        (rb'{"instruction": "a", "output": "\ud83e"}', "surrogate"),
        (b'{"instruction": "\xff", "output": "b"}', "line 1"),
        (GOOD.encode("utf-16"), "line 1"),
        (b"\x1f\x8b\x08\x00\x00\x00", "line 1"),
        (b"[" * 100_000, "expected a JSON file"),
        (b'{"a":' * 100_000, "line 1"),
    ],
)
def test_faults_of_structure_are_named_with_their_place(tmp_path, content, said):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_instructions(path))
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(UserError, match="expected to read"):
            list(read_instructions(path))


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("[]")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(UserError, match="permission denied"):
        list(read_instructions(path))
