import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.show import row_lines
from tests.programs import run, the_one_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "data"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=512), folder)
    return folder


# The two examples of PackedRow's docstring, and pieces for its letters.
A, B, C, D, E, F, END = 300, 301, 302, 303, 304, 305, 2
ROW = {
    "tokens": np.array([A, B, C, D, E, F, 0, 0]),
    "targets": np.array([B, C, D, END, F, END, 0, 0]),
    "loss_mask": np.array([0, 1, 1, 1, 1, 1, 0, 0], bool),
    "segment_ids": np.array([1, 1, 1, 1, 2, 2, 0, 0]),
    "positions": np.array([0, 1, 2, 3, 0, 1, 0, 0]),
}


TARGETS = [B, C, D, END, F, END]


class Pieces:
    """The one part of a tokenizer that is asked for."""

    def __init__(self, **changed: str):
        self.pieces = {A: "A", B: "B", C: "c", D: "d", E: "E", F: "f", END: "$", 0: "<pad>"}
        self.pieces |= {globals()[name]: piece for name, piece in changed.items()}

    def piece(self, id: int) -> str:
        return self.pieces[id]


def plain(row=ROW, **changed):
    return [line.plain for line in row_lines(row, Pieces(**changed), "row")]


def test_the_columns_of_the_docstring():
    assert plain() == [
        "row: 8 places, 6 filled, 5 targets trained, segments: 2",
        "x the loss counts this target   . it does not   segment 1  segment 2",
        " place  segment  position    token  reads     target  is to predict",
        "     0        1         0      300  'A'  .     301  'B'",
        "     1        1         1      301  'B'  x     302  'c'",
        "     2        1         2      302  'c'  x     303  'd'",
        "     3        1         3      303  'd'  x       2  '$'",
        "     4        2         0      304  'E'  x     305  'f'",
        "     5        2         1      305  'f'  x       2  '$'",
        "   6–7  padding",
    ]


def test_wide_characters_and_none_keep_the_columns():
    lines = plain(A="日本語", B=" é" + "\u0301", C="🦙", D="a long word")[3:-1]
    # The target's number is right-aligned, so that it ends where it ends in the others.
    numbers = [f" {target}  " for target in TARGETS]
    ends = [cell_len(line[: line.rindex(n) + len(n)]) for line, n in zip(lines, numbers, strict=True)]
    assert len(set(ends)) == 1, lines


def test_control_characters_do_not_break_the_lines():
    lines = plain(B="\n", C="\x1b[31m\u200d")
    assert len(lines) == 10
    assert "'\\n'" in lines[4]
    assert "'\\x1b[31m\\u200d'" in lines[5]


def test_colours_on_a_terminal_only():
    def printed(**options):
        file = io.StringIO()
        console = Console(file=file, highlight=False, soft_wrap=True, **options)
        for line in row_lines(ROW, Pieces(), "row"):
            console.print(line)
        return file.getvalue().splitlines()

    assert printed() == plain()
    coloured = printed(force_terminal=True, color_system="standard")
    first, second, third = coloured[3], coloured[4], coloured[7]
    assert "\x1b[36m" in first
    assert "\x1b[36m" in second
    assert "\x1b[35m" in third
    assert "\x1b[1;32m" not in first
    assert "\x1b[1;32m" in second
    assert "segment 2" in coloured[1]


def test_a_prepared_row_on_the_screen_and_in_a_file(folder, tmp_path):
    code, out, err = run("show", f"--data={folder}", "--row=2")
    assert (code, err) == (0, "")
    title, *_ = lines = out.splitlines()
    assert title.startswith("train row 2: 512 places")
    assert "' Below'" in lines[4]
    assert sum("  x " in line for line in lines[3:]) == int(title.split(" targets")[0].split()[-1])
    code, said, err = run("show", f"--data={folder}", "--row=2", f"--out={tmp_path / 'row.txt'}")
    assert (code, said, err) == (0, f"{tmp_path / 'row.txt'}: {title}\n", "")
    assert (tmp_path / "row.txt").read_text() == out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--row=-1"], "--row"),
        (["--row=100000"], "--row: expected a number from 0 to"),
        (["--split=eval"], "only train"),
        (["--data=nowhere"], "no such folder"),
        (["--out=/dev/null/row.txt"], "/dev/null: expected a folder"),
    ],
)
def test_bad_flags_give_one_line(folder, flags, said):
    assert said in the_one_line("show", f"--data={folder}", *flags)
