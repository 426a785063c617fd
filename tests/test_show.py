import io
import sys

import numpy as np
import pytest
from rich.console import Console

from alpaca_jax import show
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.support.program import run_program


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "data"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=512), folder)
    return folder


def run(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["show", *flags])
    with pytest.raises(SystemExit) as end:
        run_program(show.main)
    return end.value.code, *capsys.readouterr()


# The two examples of PackedRow's docstring, with pieces of the embedded tokenizer for its letters.
A, B, C, D, E, F, END = 300, 301, 302, 303, 304, 305, 2
ROW = {
    "tokens": np.array([A, B, C, D, E, F, 0, 0]),
    "targets": np.array([B, C, D, END, F, END, 0, 0]),
    "loss_mask": np.array([0, 1, 1, 1, 1, 1, 0, 0], bool),
    "segment_ids": np.array([1, 1, 1, 1, 2, 2, 0, 0]),
    "positions": np.array([0, 1, 2, 3, 0, 1, 0, 0]),
}


def printed(row, **options):
    tokenizer, file = load_tokenizer(TOKENIZER), io.StringIO()
    show.print_row(row, tokenizer, Console(file=file, highlight=False, soft_wrap=True, **options), "row")
    return file.getvalue()


def test_each_place_is_a_line_with_what_its_columns_say():
    title, _, *lines = printed(ROW).splitlines()
    assert title == "row: 8 places, 6 filled, 5 targets trained, segments: 2"
    tokenizer = load_tokenizer(TOKENIZER)
    assert len(lines) == 6
    for place, line in enumerate(lines):
        token, target = int(ROW["tokens"][place]), int(ROW["targets"][place])
        numbers = [place, ROW["segment_ids"][place], ROW["positions"][place], token]
        assert line.split()[:4] == [str(number) for number in numbers]
        assert f"{token}  '{tokenizer.piece(token)}'" in line
        assert f"{target}  '{tokenizer.piece(target)}'" in line
        assert line.endswith(" trained") == ROW["loss_mask"][place]


def test_colours_on_a_terminal_only():
    assert "\x1b" not in printed(ROW)
    coloured = printed(ROW, force_terminal=True, color_system="standard").splitlines()
    first, second = coloured[2], coloured[6]
    assert "\x1b[35m" in first
    assert "\x1b[33m" in second
    assert "\x1b[1;32m" in second
    assert "\x1b[1;32m" not in first


def test_control_characters_do_not_break_the_lines():
    (newline,) = load_tokenizer(TOKENIZER).encode_response("\n")
    row = {name: values.copy() for name, values in ROW.items()}
    row["tokens"][1] = row["targets"][0] = newline
    assert len(printed(row).splitlines()) == 8
    assert "'\\n'" in printed(row)


def test_a_prepared_row(monkeypatch, capsys, folder):
    code, out, err = run(monkeypatch, capsys, f"--data={folder}", "--row=2")
    assert (code, err) == (0, "")
    assert out.startswith("train row 2: 512 places")
    assert "' Below'" in out
    assert "'</s>'" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--row=-1"], "--row"),
        (["--row=100000"], "--row: expected a number from 0 to"),
        (["--split=eval"], "only train"),
        (["--data=nowhere"], "no such folder"),
    ],
)
def test_bad_flags_give_one_line(monkeypatch, capsys, folder, flags, said):
    code, out, err = run(monkeypatch, capsys, f"--data={folder}", *flags)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
