"""Makes a packed TFDS dataset from instruction files.

Reads JSON lists or JSON lines, plain, .gz or .zst, of {"instruction", "input", "output"}, self-instruct tasks or chats
{"messages": [{"role", "content"}, …]}; tokenises; packs several examples into each row without cutting one; and writes
ArrayRecord files that `tfds.builder_from_directory(DIR)` reads, the tokenizer and the provenance beside them. A record
that gives no example has its file, line and reason in DIR/rejected.jsonl.
"""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from alpaca_jax.support.program import Flags, print_json, run_program

_EXAMPLE = """
example, a third of the second file's records added to the first's:
  python -m alpaca_jax.prepare --input=alpaca.json --input=chats.jsonl.gz --weights=1,0.333 \\
      --tokenizer=llama/tokenizer.model --seq_len=2048 --eval_fraction=0.02 --out=packed
"""
_REJECTIONS_SHOWN = 3


def main() -> int | None:
    """Parses the flags, prepares, and says what came of it."""
    values = _flags().parse()

    from alpaca_jax.data.preparation import Request, parse_weights, prepare

    request = Request(
        inputs=tuple(map(Path, values.input)),
        tokenizer=Path(values.tokenizer),
        seq_len=values.seq_len,
        seed=values.seed,
        eval_fraction=values.eval_fraction,
        weights=parse_weights(values.weights),
        template=values.template,
        tokenization=values.tokenization,
    )
    metadata, already = prepare(request, values.out)
    counts = metadata["counts"]
    if values.json:
        names = ("records", "kept", "dropped", "truncated", "tokens", "target_tokens", "rows", "fill")
        print_json({name: counts[name] for name in names})
    else:
        _print_summary(metadata, values.out, already)
    return 0


def _flags() -> Flags:
    from alpaca_jax.data.prompt import DEFAULT_TEMPLATE, TEMPLATES

    flags = Flags(prog="python -m alpaca_jax.prepare", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument("--input", metavar="FILE", action="append", required=True, help="instruction file; repeatable")
    flags.add_argument(
        "--weights",
        metavar="W,W,…",
        default="",
        help="for each --input how often its records are packed; 2.5 is twice, and a third time by chance, as the "
        "seed decides (default 1 each)",
    )
    flags.add_argument(
        "--tokenizer",
        metavar="PATH",
        required=True,
        help="SentencePiece model, tokenizer.json, or a folder with one: of a model, a checkpoint, a run",
    )
    flags.add_argument("--seq_len", metavar="N", type=int, required=True, help="tokens in a row")
    flags.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    flags.add_argument(
        "--template",
        metavar="NAME",
        default=DEFAULT_TEMPLATE,
        help=f"{DEFAULT_TEMPLATE} (default), or that of a chat model: {', '.join(list(TEMPLATES)[1:])}",
    )
    flags.add_argument(
        "--tokenization",
        metavar="HOW",
        default="exact",
        help="exact: prompt and answer apart (default); stanford: together, as the original did",
    )
    flags.add_argument("--seed", metavar="N", type=int, default=0, help="of the order of packing (default 0)")
    flags.add_argument(
        "--eval_fraction", metavar="F", type=float, default=0.0, help="share of records held out (default 0)"
    )
    flags.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    return flags


def _print_summary(metadata: Mapping[str, Any], out: str, already: bool) -> None:
    counts = metadata["counts"]
    dropped = ", ".join(f"{number:,} {reason}" for reason, number in counts["dropped"].items()) or "none"
    by_split = ", ".join(f"{number:,} {split}" for split, number in counts["split_rows"].items())
    print(f"{out}: {'already prepared from the same input' if already else 'prepared'}")
    print(f"  records        {counts['records']:>12,}")
    for source in metadata["sources"]:
        packed = f"{source['examples']:,} examples (weight {source['weight']:g}) from {source['kept']:,} of "
        print(f"    {source['name']}: {packed if source['weight'] != 1 else ''}{source['records']:,} records")
    print(f"  kept           {counts['kept']:>12,}   dropped: {dropped}; truncated: {counts['truncated']:,}")
    for line in _rejections(Path(out)):
        print(f"    {line}")
    print(f"  tokens         {counts['tokens']:>12,}   in the rows, padding left out")
    print(f"  target tokens  {counts['target_tokens']:>12,}   trained on: responses and their ends")
    print(f"  rows           {counts['rows']:>12,}   {by_split}")
    print(f"  fill           {counts['fill']:>12.2%}   of the places in the rows hold a token")


def _rejections(out: Path) -> list[str]:
    """The first rejected records in words, and where the others are."""
    path = out / "rejected.jsonl"
    with open(path, encoding="utf-8") as file:
        first = [json.loads(line) for line in islice(file, _REJECTIONS_SHOWN)]
        more = sum(1 for _ in file)
    shown = [f"{line['file']}, line {line['line']}: {line['reason']}" for line in first]
    return [*shown, f"{more:,} more in {path}"] if more else shown


if __name__ == "__main__":
    run_program(main)
