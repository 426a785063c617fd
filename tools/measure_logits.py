"""How far our float32 logits, and transformers', are from what transformers computes from the same weights in float64.

python tools/measure_logits.py --checkpoint=DIR --reference=PATH --input=FILE [--texts=9] [--length=1024] [--json]

The file's text is cut into `--texts` pieces of `--length` tokens, of which all positions are compared; to them come the
two sequences of `convert verify`, the second with random tokens up to position 4,095. A line each: the largest
difference at any position of ours from theirs in float64, of theirs in float32 from theirs in float64, and of ours from
the nearer of their two. (In float64 transformers still keeps to float32 in norms and rotations. Where both sides'
float32 agree and float64 differs, it is float32 that cannot hold the number.)
"""

from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.convert.verify import Compared, our_logits, sequences_to_compare, their_logits
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.program import Flags, print_json, run_program


def main() -> None:
    """Parses the flags, computes all three, prints a table."""
    flags = Flags(prog="python tools/measure_logits.py", description=__doc__)
    flags.add_argument("--checkpoint", required=True, metavar="DIR", help="as for `convert verify`")
    flags.add_argument("--reference", required=True, metavar="PATH", help="as for `convert verify`")
    flags.add_argument("--input", required=True, metavar="FILE", help="a text")
    flags.add_argument("--texts", type=int, default=9, metavar="N", help="pieces of it (default: %(default)s)")
    flags.add_argument("--length", type=int, default=1024, metavar="N", help="tokens of each (default: %(default)s)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    values = flags.parse()

    folder = CheckpointFolder.open(values.checkpoint)
    sequences = _pieces(folder, Path(values.input), values.texts, values.length) + sequences_to_compare(folder)
    size = folder.model.vocab_size
    exact, rounded = (their_logits(Path(values.reference), sequences, dtype, size) for dtype in ("float64", "float32"))
    ours = our_logits(folder, sequences, "float32")

    from rich.table import Table

    from alpaca_jax.support.progress import console

    table = Table(
        "positions", "ours, of float64", "theirs, of float64", "ours, of the nearer", box=None, pad_edge=False
    )
    lines: list[dict[str, Any]] = []
    for (_, positions), exact_PV, rounded_PV, ours_PV in zip(sequences, exact, rounded, ours, strict=True):
        of_exact_P, of_rounded_P = _largest(ours_PV, exact_PV), _largest(ours_PV, rounded_PV)
        errors = {
            "ours": float(of_exact_P.max()),
            "theirs": float(_largest(rounded_PV, exact_PV).max()),
            "nearer": float(np.minimum(of_exact_P, of_rounded_P).max()),
        }
        lines.append({"positions": [int(positions[0]), int(positions[-1])]} | errors)
        table.add_row(f"{positions[0]}–{positions[-1]:,}", *(f"{error:.1e}" for error in errors.values()))
    console.print(table, markup=False)
    if values.json:
        print_json({"sequences": lines})


def _pieces(folder: CheckpointFolder, path: Path, count: int, length: int) -> list[Compared]:
    """The first pieces of a text.

    Raises:
      UserError: it cannot be read, or is too short.
    """
    with explain_os_errors(path):
        ids = folder.tokenizer().encode_prompt(path.read_text(encoding="utf-8"))
    if len(ids) < count * length:
        raise UserError(
            str(path),
            expected=f"{count} × {length:,} tokens",
            found=f"{len(ids):,}",
            remedy="give a longer text, or lower --texts or --length",
        )
    places = np.arange(length)
    return [(ids[start : start + length], places) for start in range(0, count * length, length)]


def _largest(a_PV: np.ndarray, b_PV: np.ndarray) -> np.ndarray:
    return np.abs(a_PV - b_PV).max(axis=1)


if __name__ == "__main__":
    run_program(main)
