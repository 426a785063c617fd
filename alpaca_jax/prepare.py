"""Makes a packed TFDS dataset from instruction files.

Reads a JSON list or JSON lines of {"instruction", "input", "output"}, or self-instruct tasks; tokenises prompt and
response apart; packs several examples into each row without cutting one; and writes ArrayRecord files that
`tfds.builder_from_directory(DIR)` reads, with the tokenizer and the provenance beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.support.program import Flags, print_json, run_program

_EXAMPLE = """
example:
  python -m alpaca_jax.prepare --input=data.json --tokenizer=llama/tokenizer.model --seq_len=512 --out=packed
"""


def main() -> int | None:
    """Parses the flags, prepares, and says what came of it."""
    flags = Flags(prog="python -m alpaca_jax.prepare", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument("--input", metavar="FILE", action="append", required=True, help="instruction file; repeatable")
    flags.add_argument(
        "--tokenizer", metavar="PATH", required=True, help="SentencePiece model, tokenizer.json, or a folder with one"
    )
    flags.add_argument("--seq_len", metavar="N", type=int, required=True, help="tokens in a row")
    flags.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    flags.add_argument("--seed", metavar="N", type=int, default=0, help="of the order of packing (default 0)")
    flags.add_argument(
        "--eval_fraction", metavar="F", type=float, default=0.0, help="share of records held out (default 0)"
    )
    flags.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    values = flags.parse()

    from alpaca_jax.data.preparation import Request, prepare

    inputs = tuple(map(Path, values.input))
    request = Request(inputs, Path(values.tokenizer), values.seq_len, values.seed, values.eval_fraction)
    metadata, already = prepare(request, values.out)
    counts = metadata["counts"]
    if values.json:
        names = ("records", "kept", "dropped", "truncated", "tokens", "target_tokens", "rows", "fill")
        print_json({name: counts[name] for name in names})
    else:
        _print_summary(counts, values.out, already)
    return 0


def _print_summary(counts: Mapping[str, Any], out: str, already: bool) -> None:
    dropped = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items()) or "none"
    by_split = ", ".join(f"{number} {split}" for split, number in counts["split_rows"].items())
    print(f"{out}: {'already prepared from the same input' if already else 'prepared'}")
    print(f"  records        {counts['records']:>12,}")
    print(f"  kept           {counts['kept']:>12,}   dropped: {dropped}; truncated: {counts['truncated']}")
    print(f"  tokens         {counts['tokens']:>12,}   in the rows, padding left out")
    print(f"  target tokens  {counts['target_tokens']:>12,}   trained on: responses and their ends")
    print(f"  rows           {counts['rows']:>12,}   {by_split}")
    print(f"  fill           {counts['fill']:>12.2%}   of the places in the rows hold a token")


if __name__ == "__main__":
    run_program(main)
