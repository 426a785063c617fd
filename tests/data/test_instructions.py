import gzip
import json
import os
import re
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data import record_files
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import Conversation, Instruction, Message, read_records
from alpaca_jax.support.errors import UserError
from tests.programs import the_one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hé 🦙\n"},
    {"instruction": "Greet.", "input": None, "output": "", "text": "a field that nobody asked for"},
    {"instruction": "Greet.", "output": "Hi"},
    {"instruction": "Count.", "instances": [{"input": "1 and 2", "output": "3"}, {"output": "4"}]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
]
TURNS = [("system", "Be brief."), ("user", "Hi"), ("assistant", ""), ("user", "Bye"), ("assistant", "See you")]
RECORDS.append({"id": 7, "messages": [{"role": role, "content": content} for role, content in TURNS]})
EXPECTED = [
    Instruction("Add.", "1 and 2", "3"),
    Instruction("Greet.", "", "Hé 🦙\n"),
    Instruction("Greet.", "", ""),
    Instruction("Greet.", "", "Hi"),
    Instruction("Count.", "1 and 2", "3"),
    Instruction("Count.", "", "4"),
    Conversation((Message("user", "Hi"), Message("assistant", "Hello"))),
    Conversation(tuple(Message(*turn) for turn in TURNS)),
]
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
FORMS = {
    "list": json.dumps(RECORDS),
    "indented list": "\ufeff\n\n " + json.dumps(RECORDS, indent=1) + "\n",
    "lines": LINES,
    "lines with blank ones": "\n \t\n" + LINES.replace("\n", "\r\n\n") + "\n",
}
PACKED = {
    "plain": bytes,
    "gzip": gzip.compress,
    "two gzips": lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:]),
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl.gz", "data"])
def test_the_content_decides_the_form(tmp_path, form, packed, name):
    path = tmp_path / name
    path.write_bytes(PACKED[packed](FORMS[form].encode()))
    located = list(read_records(path))
    assert [each.record for each in located] == EXPECTED
    assert [each.number for each in located] == [1, 2, 3, 4, 5, 5, 6, 7]
    assert [each.instance for each in located] == [None] * 4 + [1, 2] + [None] * 2
    lines = FORMS[form].split("\n")
    for each in located:  # an indented record's first key stands in the next line
        assert next(iter(RECORDS[each.number - 1])) in lines[each.line - 1] + lines[each.line % len(lines)]
    first = {"list": "record 1 (line 1)", "indented list": "record 1 (line 4)", "lines": "line 1"}
    assert located[0].place == f"{path}, {first.get(form, 'line 3')}"
    assert located[5].place.endswith(", instance 2")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(), max_size=9), st.integers(1, 40), st.booleans())
def test_a_list_is_read_the_same_in_blocks_of_any_size(tmp_path_factory, texts, block, escaped):
    values = [value for text in texts for value in ({"a": [text, 1.5, None, {"b": 12345}]}, 67890, True)]
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(values, ensure_ascii=escaped, indent=block % 3), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_files, "_BLOCK", block)
        assert [each.value for each in record_files.read_values(path)] == values


def test_the_embedded_tasks():
    assert len(list(read_records(SEED_TASKS))) >= 175


@pytest.mark.parametrize("form", ["list", "lines"])
def test_a_large_file_is_never_in_memory(tmp_path, form):
    record = json.dumps({"instruction": "a" * 500, "output": "b" * 500})
    lines, count = [record] * 1000, 12
    path = tmp_path / "large.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("[" if form == "list" else "")
        file.write((",\n" if form == "list" else "\n").join(lines * count))
        file.write("]" if form == "list" else "")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == 1000 * count
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


GOOD = '{"instruction": "a", "output": "b"}\n'


def chat(*messages):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]}).encode()


FAULTS = [
    (b"", "no record at all"),
    (b" \n\t\n", "no record at all"),
    (b"[]", "no record at all"),
    (gzip.compress(b""), "no record at all"),
    (b"not json", "line 1: expected one JSON value"),
    (b"[not json]", "line 1: expected JSON"),
    (b'[{"instruction": "a", "output": "b"}, {', "line 1: expected JSON"),
    (b'[\n{"instruction": "a", "output": "b"},\n]', "line 3: expected JSON"),
    (b'[\n{"instruction": "a", "output": "b"}\n{}]', "line 3: expected a comma or the end of the list; found '{'"),
    (b'[\n{"instruction": "a", "output": "b"}', "line 2: expected a comma or the end of the list; found the end of"),
    (b'[{"instruction": "a", "output": "b"}]\n[]', "line 2: expected nothing after the end of the list"),
    (b'[{"instruction": "a", "output": "b', "line 1: expected JSON; found 'Unterminated string"),
    (GOOD.encode() + b'{"instruction": "a"', "line 2: expected one JSON value"),
    (GOOD.encode() + b'{"instruction": "a"}', "line 2: expected a field `output`"),
    (b'{"output": "b"}', "line 1: expected a field `instruction`"),
    (b'[{"instruction": "a", "output": "b"},\n 3]', "record 2 (line 2): expected a JSON list or JSON lines of objects"),
    (b'[["a", "b"]]', "record 1 (line 1): expected a JSON list or JSON lines of objects"),
    (b'{"instruction": 5, "output": "b"}', "`instruction` to be a text; found 5"),
    (b'{"instruction": "a", "output": null}', "`output` to be a text; found None"),
    (b'{"instruction": "a", "input": ["x"], "output": "b"}', "`input` to be a text"),
    (b'{"instruction": "a", "output": "b", "output": "c"}', "the key 'output' twice"),
    (b'{"instruction": "a", "output": "b", "score": NaN}', "NaN"),
    (b'[{"instruction": "a", "output": "b", "score": -Infinity}]', "-Infinity"),
    (b'{"instruction": "a", "instances": []}', "`instances`"),
    (b'{"instruction": "a", "instances": {"output": "b"}}', "`instances`"),
    (b'{"instruction": "a", "instances": [{"output": "b"}, "c"]}', "line 1, instance 2: expected an object"),
    (b'{"instruction": "a", "instances": [{"input": "b"}]}', "instance 1: expected a field `output`"),
    (b'{"messages": []}', "`messages` to be a list with at least one element; found []"),
    (b'{"messages": "hi"}', "`messages` to be a list"),
    (b'{"messages": ["hi"]}', "message 1: expected an object with `role` and `content`"),
    (b'{"messages": [{"role": "user"}]}', "message 1: expected a field `content`"),
    (chat(("user", "a"), ("assistant", None)), "message 2: expected `content` to be a text; found None"),
    (chat(("user", ["a"]), ("assistant", "b")), "message 1: expected `content` to be a text"),
    (chat(("user", "a"), ("tool", "b")), "message 2: expected `role` to be system, user or assistant; found 'tool'"),
    (chat(("assistant", "a")), "found 'assistant' where 'user' is due, after the beginning"),
    (chat(("user", "a"), ("user", "b")), "found 'user' where 'assistant' is due, after the user"),
    (chat(("user", "a"), ("assistant", "b"), ("system", "c")), "found 'system' where 'user' is due"),
    (chat(("system", "a")), "no message of a user"),
    (chat(("user", "a"), ("assistant", "b"), ("user", "c")), "to end with the assistant's answer"),
    (rb'{"instruction": "a\u0000", "output": "b"}', "NUL"),
    (b'{"instruction": "a\x00", "output": "b"}', "line 1"),
    (rb'{"instruction": "a", "output": "\ud83e"}', "half of a surrogate pair"),
    (rb'[{"messages": [{"role": "user", "content": "\ud83e"}]}]', "record 1 (line 1), message 1: expected `content`"),
    (b'{"instruction": "\xff", "output": "b"}', "line 1"),
    (b'[{"instruction": "a", "output":\n "\xff"}]', "line 2: expected text in UTF-8"),
    (GOOD.encode("utf-16"), "line 1"),
    (bytes(range(256)) * 64, "line 1"),
    (b"\x1f\x8b\x08\x00\x00\x00", "an undamaged gzip file"),
    (gzip.compress(LINES.encode())[:-20], "an undamaged gzip file"),
    (gzip.compress(LINES.encode()) + b"rest", "an undamaged gzip file"),
    (zstd.compress(FORMS["list"].encode())[:-20], "an undamaged Zstandard file"),
    (zstd.compress(LINES.encode())[:9] + b"\xff" * 30, "an undamaged Zstandard file"),
    (b"[" * 100_000, "too deep"),
    (b'{"a":' * 100_000, "too deep"),
    (b'{"instruction": ' + b"[" * 700 + b"]" * 700 + b', "output": ""}', "line 1"),
]


@pytest.mark.parametrize(("content", "said"), FAULTS, ids=range(len(FAULTS)))
def test_faults_of_structure_are_named_with_their_place(tmp_path, content, said):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_records(path))
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("start", "endless", "said"),
    [
        (b'{"instruction": "', b"a", "line 1: expected at most 64 MiB in a line; found a longer one"),
        (b'[\n{"instruction": "', b"a", "line 2: expected records of at most 64 MiB; found a longer one"),
        (b'[{"instruction": [', b" ", "line 1: expected records of at most 64 MiB"),
        (b"[\n", b" ", "line 2: expected JSON"),
        (b"", b"\0", "line 1: expected at most 64 MiB in a line"),
    ],
)
def test_a_small_file_that_expands_without_end_does_not_fill_the_memory(tmp_path, start, endless, said):
    path = tmp_path / "bomb.zst"
    with zstd.open(path, "wb", level=1) as file:
        file.write(start)
        for _ in range(9):
            file.write(endless * 2**24)
    assert path.stat().st_size < 2**16
    with pytest.raises(UserError, match=re.escape(said)):
        list(read_records(path))


@pytest.mark.parametrize("name", ["", "missing.json"])
def test_what_is_no_file(tmp_path, name):
    with pytest.raises(UserError, match="expected a file"):
        list(read_records(tmp_path / name))


def test_a_file_without_permission(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("[]")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: root may read everything
    try:
        with pytest.raises(UserError, match="permission denied"):
            list(read_records(path))
    finally:
        os.seteuid(user)


BAD_FILES = {
    "binary": (bytes(range(256)) * 40, "line 1: expected one JSON value"),
    "deep nesting": (b"[" * 100_000, "line 1: .*too deep"),
    "a lone surrogate": (rb'{"instruction": "a", "output": "\udc00"}', "line 1: .*surrogate"),
    "NUL": (rb'{"instruction": "a\u0000b", "output": "c"}', "line 1: .*NUL"),
    "a field of a wrong type": (b'{"instruction": "a", "output": ["c"]}', "line 1: .*`output` to be a text"),
    "a bad chat": (chat(("assistant", "a")), "line 1: .*'user' is due"),
    "a line without end": (None, "line 1: .*at most 64 MiB in a line"),
    "a directory": (None, "is a directory"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_prepare_refuses_a_bad_file_with_one_line_and_leaves_nothing(tmp_path, kind):
    path = tmp_path / "data.jsonl"
    content, said = BAD_FILES[kind]
    if kind == "a directory":
        path.mkdir()
    else:
        path.write_bytes(GOOD.encode() if content is None else content)
    if kind == "a line without end":
        os.truncate(path, 0)
        os.truncate(path, 2**28)  # without taking room on the disk
    before = sorted(tmp_path.rglob("*"))
    flags = (f"--input={path}", f"--tokenizer={TOKENIZER}", "--seq_len=64", f"--out={tmp_path / 'out'}")
    assert re.search(f"data.jsonl.*{said}", the_one_line("prepare", *flags))
    assert sorted(tmp_path.rglob("*")) == before
