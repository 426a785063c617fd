"""Shows one packed row token by token: what the model reads, what it is to predict, and whether that is trained.

Each line: place in the row, segment (one example), position in the segment, the token read, `x` where the loss counts
the next token, and that token. On a terminal each segment has a colour, and what is trained is green. --out writes the
same lines to a file, as plain text.
"""

from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, run_program

if TYPE_CHECKING:
    import numpy as np
    from rich.text import Text

    from alpaca_jax.data.tokenizer import Tokenizer

_EXAMPLE = """
example:
  python -m alpaca_jax.show --data=packed --row=3
"""
_SEGMENT_COLOURS = ("cyan", "magenta", "yellow", "blue")
_TRAINED = "bold green"
# A piece is a word or less; the few longer ones push what follows to the right.
_WIDEST_PIECE = 24


def main() -> int | None:
    """Parses the flags and prints the row."""
    flags = Flags(prog="python -m alpaca_jax.show", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument("--data", metavar="DIR", required=True, help="packed dataset, made by prepare")
    flags.add_argument("--row", metavar="K", type=int, default=0, help="number of the row, from 0 (default 0)")
    flags.add_argument("--split", metavar="NAME", default="train", help="train or eval (default train)")
    flags.add_argument("--out", metavar="FILE", help="text file to write instead of printing")
    values = flags.parse()

    from alpaca_jax.data.packed_dataset import open_packed_dataset
    from alpaca_jax.support.files import write_text_atomic

    dataset = open_packed_dataset(values.data)
    rows = dataset.num_rows(values.split)
    if not 0 <= values.row < rows:
        raise UserError(
            "--row",
            expected=f"a number from 0 to {rows - 1}",
            found=str(values.row),
            remedy=f"{values.data} has {rows} rows",
        )
    row = dataset.source(values.split)[values.row]
    lines = row_lines(row, dataset.tokenizer(), f"{values.split} row {values.row}")
    if values.out:
        write_text_atomic(values.out, "".join(f"{line.plain}\n" for line in lines))
        print(f"{values.out}: {lines[0].plain}")
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        for line in lines:
            console.print(line)
    return 0


def row_lines(row: "dict[str, np.ndarray]", tokenizer: "Tokenizer", title: str) -> "list[Text]":
    """The arrays of `PackedRow`, each [L], as lines: a title, a legend, the headings, a line for each place, padding.

    The row of `PackedRow`'s docstring, of two examples `A B c d $` and `E f $`:

         place  segment  position    token  reads     target  is to predict
             0        1         0      300  'A'  .     301  'B'
             1        1         1      301  'B'  x     302  'c'
             2        1         2      302  'c'  x     303  'd'
             3        1         3      303  'd'  x       2  '$'
             4        2         0      304  'E'  x     305  'f'
             5        2         1      305  'f'  x       2  '$'
           6–7  padding
    """
    from rich.cells import cell_len
    from rich.text import Text

    pieces = {id: _visible(tokenizer.piece(id)) for id in {*map(int, row["tokens"]), *map(int, row["targets"])}}
    filled = int((row["segment_ids"] > 0).sum())
    seq_len, segments, trained = len(row["tokens"]), int(row["segment_ids"].max()), int(row["loss_mask"].sum())
    width = min(_WIDEST_PIECE, max(cell_len(pieces[int(token)]) for token in row["tokens"][: max(filled, 1)]))
    legend = Text().append("x", _TRAINED).append(" the loss counts this target   ").append(". it does not   ", "dim")
    for segment in range(1, min(segments, len(_SEGMENT_COLOURS)) + 1):
        legend.append(f"segment {segment}  ", _colour(segment))
    heading = f"{'place':>6}  segment  position  {'token':>7}  {'reads':<{width}}    {'target':>7}  is to predict"
    lines = [
        Text(f"{title}: {seq_len} places, {filled} filled, {trained} targets trained, segments: {segments}"),
        legend,
        Text(heading, "bold"),
    ]
    for place in range(filled):
        segment, is_trained = int(row["segment_ids"][place]), bool(row["loss_mask"][place])
        token, target = int(row["tokens"][place]), int(row["targets"][place])
        line = Text(f"{place:>6}  {segment:>7}  {row['positions'][place]:>8}  ")
        # Wide characters take two cells, and some none, so that a count of characters would not align.
        padding = " " * (width - cell_len(pieces[token]))
        line.append(f"{token:>7}  {pieces[token]}{padding}", _colour(segment))
        line.append(f"  {'x' if is_trained else '.'} {target:>7}  {pieces[target]}", _TRAINED if is_trained else "dim")
        lines.append(line)
    if filled < seq_len:
        last = f"–{seq_len - 1}" if filled < seq_len - 1 else ""
        lines.append(Text(f"{f'{filled}{last}':>6}  padding", "dim"))
    for line in lines:
        line.rstrip()
    return lines


def _colour(segment: int) -> str:
    return _SEGMENT_COLOURS[(segment - 1) % len(_SEGMENT_COLOURS)]


def _visible(piece: str) -> str:
    """A piece in quotes, its line ends and other control characters escaped, so that it stays on one line."""
    return f"'{''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in piece)}'"


if __name__ == "__main__":
    run_program(main)
