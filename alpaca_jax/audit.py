"""Finds what is known to be wrong in instruction data, counts it by kind with examples, and cleans it.

Reads what `prepare` reads. With --fix, what is certain is repaired (invisible characters, mojibake, an empty input
spelt out; merged records become several; an answer that breaks off is trimmed to its last whole sentence), what teaches
nothing right is dropped (no answer, an answer or an input that is not there, a copy, a task of --eval), and what only a
reader can judge is left (near-duplicates, tasks beyond a text model, long records, lost characters). OUT.log.jsonl has
a line for each change: file, record, kind, why, before, and after or dropped.
"""

from pathlib import Path

from alpaca_jax.support.program import Flags, print_json, run_program

_EXAMPLE = """
example:
  python -m alpaca_jax.audit --input=data.json --eval=user_oriented_instructions.jsonl --fix=clean.json
"""


def main() -> int | None:
    """Parses the flags, audits, and says what was found."""
    flags = Flags(prog="python -m alpaca_jax.audit", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument(
        "--input", metavar="FILE", type=Path, action="append", required=True, help="instruction file; repeatable"
    )
    flags.add_argument("--fix", metavar="OUT", type=Path, help="cleaned file to write, in the form of the first input")
    flags.add_argument("--json", action="store_true", help="print the counts and examples as one JSON object")
    flags.add_argument(
        "--tokenizer", metavar="PATH", type=Path, help="as for prepare, to find what is too long for --seq_len"
    )
    flags.add_argument("--seq_len", metavar="N", type=int, help="tokens in a row, template included")
    flags.add_argument(
        "--eval", metavar="FILE", type=Path, action="append", default=[], help="evaluation tasks; repeatable"
    )
    flags.add_argument(
        "--near", metavar="F", type=float, default=0.7, help="ROUGE-L F of near-duplicates (default 0.7; 1: none)"
    )
    values = flags.parse()

    from alpaca_jax.data.audit.run import Request, audit

    request = Request(
        inputs=tuple(values.input),
        near=values.near,
        evaluation=tuple(values.eval),
        tokenizer=values.tokenizer,
        seq_len=values.seq_len,
        fix=values.fix,
    )
    report = audit(request)
    if values.json:
        print_json(report.as_json())
    else:
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=132, soft_wrap=True)
        report.print_to(console)
    return 0


if __name__ == "__main__":
    run_program(main)
