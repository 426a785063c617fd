"""Files that are whole or not there."""

from pathlib import Path

import pytest

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import (
    check_file_place,
    check_folder_place,
    new_folder,
    parse_json,
    read_json,
    read_json_lines,
    write_json_atomic,
    write_json_lines_atomic,
    write_text_atomic,
)


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_folder_fills_the_empty_one_that_a_dot_or_a_link_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", tmp_path / "link"):
        with new_folder(path) as folder:
            (folder / "file").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "there"]
    assert (tmp_path / "here" / "file").read_text() == (tmp_path / "there" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    def fill() -> None:
        with new_folder(tmp_path / "b") as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/proc/new", "^/proc/new: expected"),  # where not even root may make a file
        ("/proc/new/er", "^/proc/new/er: expected"),
        ("file/x", "file: expected a folder; found a file"),
        ("folder", "folder: expected a file to write; found a folder"),
    ],
)
def test_a_place_for_a_file_is_looked_at_before_the_work(tmp_path: Path, path: str, says: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=says) as caught:
        check_file_place(tmp_path / path)
    assert ".tmp" not in str(caught.value)
    check_file_place(tmp_path / "folder" / "new" / "er")
    check_file_place(tmp_path / "file")  # which is to be replaced
    check_folder_place(tmp_path / "folder" / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_refusal_does_not_speak_of_hidden_files(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="/folder: expected a file; found is a directory"):
        write_text_atomic(tmp_path / "folder", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(UserError, match=r"^/proc/new: expected"), new_folder("/proc/new"):
        pass


def test_json_lines_are_written_as_they_are_read(tmp_path: Path):
    write_json_lines_atomic(tmp_path / "f.jsonl", [{"ä": 1}, [2]])
    assert list(read_json_lines(tmp_path / "f.jsonl")) == [(1, {"ä": 1}), (2, [2])]


def test_a_folder_with_content_is_not_replaced(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="with content"), new_folder(tmp_path):
        pass
    assert (tmp_path / "file").exists()


def test_a_file_is_replaced_whole(tmp_path: Path):
    write_json_atomic(tmp_path / "f.json", {"ä": 1})
    assert read_json(tmp_path / "f.json") == {"ä": 1}
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(tmp_path / "f.json", "\ud800")
    assert read_json(tmp_path / "f.json") == {"ä": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_lines_are_numbered_and_a_bad_one_named(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\n')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_bytes(b'{"a": 1}\n{"a": \xff}\n')
    with pytest.raises(UserError, match="line 2"):
        list(read_json_lines(path))
    path.write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(UserError, match="line 2"):
        list(read_json_lines(path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match="a JSON file"):
        read_json(tmp_path / "f")


@pytest.mark.parametrize("text", ['{"a": 1e999}', "[-1e400]", "NaN"])
def test_a_number_that_is_not_finite_is_refused(text: str):
    with pytest.raises(ValueError, match=r"too large|JSON does not have"):
        parse_json(text)


def test_what_cannot_be_read_is_one_line(tmp_path: Path):
    for path, says in ((tmp_path / "absent", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(UserError, match=says) as caught:
            read_json(path)
        assert "\n" not in str(caught.value)
