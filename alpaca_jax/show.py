"""Shows one packed row token by token: what the model reads, what it is to predict, and whether that is trained.

Each line: place in the row, segment (one example; 0 is padding), position in the segment, the token read, the token to
predict, and `trained` where the loss counts it. Colours alternate by segment on a terminal; padding is left out.
"""

from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, run_program

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from alpaca_jax.data.tokenizer import Tokenizer

_EXAMPLE = """
example:
  python -m alpaca_jax.show --data=packed --row=3
"""
_SEGMENT_COLOURS = ("cyan", "magenta", "yellow", "blue")


def main() -> int | None:
    """Parses the flags and prints the row."""
    flags = Flags(prog="python -m alpaca_jax.show", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument("--data", metavar="DIR", required=True, help="packed dataset, made by prepare")
    flags.add_argument("--row", metavar="K", type=int, default=0, help="number of the row, from 0 (default 0)")
    flags.add_argument("--split", metavar="NAME", default="train", help="train or eval (default train)")
    values = flags.parse()

    from rich.console import Console

    from alpaca_jax.data.packed_dataset import open_packed_dataset

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
    print_row(row, dataset.tokenizer(), Console(highlight=False, soft_wrap=True), f"{values.split} row {values.row}")
    return 0


def print_row(row: "dict[str, np.ndarray]", tokenizer: "Tokenizer", console: "Console", title: str) -> None:
    """Prints the arrays of `PackedRow`, each [L], one line for each place that is not padding."""
    from rich.text import Text

    filled = int((row["segment_ids"] > 0).sum())
    seq_len, segments, trained = len(row["tokens"]), int(row["segment_ids"].max()), int(row["loss_mask"].sum())
    console.print(f"{title}: {seq_len} places, {filled} filled, {trained} targets trained, segments: {segments}")
    console.print(f"{'place':>6} {'segment':>7} {'position':>8} {'token':>8}  {'':<20} {'target':>8}", style="bold")
    for place in range(filled):
        segment, is_trained = int(row["segment_ids"][place]), bool(row["loss_mask"][place])
        token, target = int(row["tokens"][place]), int(row["targets"][place])
        line = Text(f"{place:>6} {segment:>7} {row['positions'][place]:>8} ")
        line.append(f"{token:>8}  {_visible(tokenizer.piece(token)):<20} ", _SEGMENT_COLOURS[segment % 4])
        line.append(f"{target:>8}  {_visible(tokenizer.piece(target)):<20}", "bold green" if is_trained else "dim")
        line.append(" trained" if is_trained else "", "bold green")
        line.rstrip()
        console.print(line)


def _visible(piece: str) -> str:
    """A piece in quotes, its line ends and other control characters escaped, so that it stays on one line."""
    return f"'{''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in piece)}'"


if __name__ == "__main__":
    run_program(main)
