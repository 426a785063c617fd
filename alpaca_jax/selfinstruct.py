"""Makes new instructions with answers: a model behind any server that speaks OpenAI's protocol writes them from seeds.
Each passes Alpaca's filters and is no near-duplicate of a seed or an earlier one. Beside OUT.jsonl lie where each comes
from (OUT.provenance.jsonl) and all requests with their answers (OUT.requests.jsonl): a run that was stopped in any way
goes on from these and pays for nothing twice. The key is OPENAI_API_KEY in the environment.
"""

import argparse
from pathlib import Path

from alpaca_jax.remote.connection import add_connection_flags, take_connection
from alpaca_jax.support.program import Flags, print_json, run_program

_EXAMPLE = """
example: … --seeds=seed_tasks.jsonl --out=new.jsonl --num=1000 --model=gpt-4o-mini --budget_usd=5
"""


def _flags() -> Flags:
    flags = Flags(
        prog="python -m alpaca_jax.selfinstruct",
        usage="%(prog)s --seeds=FILE --out=FILE.jsonl --num=N --model=NAME [flags]",
        description=__doc__,
        epilog=_EXAMPLE,
        argument_default=argparse.SUPPRESS,
    )
    add = flags.add_argument
    add("--seeds", metavar="FILE", type=Path, required=True, help="instruction file to draw examples from")
    add("--out", metavar="FILE.jsonl", type=Path, required=True, help="new records; run again, it goes on")
    add("--num", metavar="N", type=int, required=True, help="how many records")
    add("--model", metavar="NAME", required=True, help="the server's name of the model")
    add(
        "--mode",
        choices=["alpaca", "self_instruct"],
        metavar="MODE",
        help="alpaca (default), or self_instruct: by steps",
    )
    add("--machine_tasks", metavar="K", type=int, help="examples in a prompt that are new records (0; by steps 2)")
    add("--domain", metavar="TEXT", help="what all tasks are about")
    add("--topics", metavar="FILE", type=Path, help="topics, one a line, to spread the records over evenly")
    add("--language", metavar="NAME", help="language of the tasks (default English)")
    add("--near", metavar="F", type=float, help="ROUGE-L F of near-duplicates (default 0.7)")
    add("--judge", metavar="NAME", help="model that scores each record from 1 to 10")
    add("--judge_min", metavar="S", type=int, help="drop records with a lower score")
    add("--dry_run", metavar="K", nargs="?", type=int, const=3, help="make only K requests (3) and predict the cost")
    add("--seed", metavar="N", type=int, help="of the random choices (default 0)")
    add("--temperature", metavar="T", type=float, help="of the model (default 1), and")
    add("--top_p", metavar="P", type=float, help="its nucleus (default 1)")
    add("--max_tokens", metavar="N", type=int, help="of an answer (default 3072)")
    add_connection_flags(flags)
    add("--json", action="store_true", default=False, help="print counts and cost as one JSON object")
    return flags


def main() -> int | None:
    """Parses the flags, makes the records, and says what they cost."""
    values = vars(_flags().parse())
    as_json = values.pop("json")

    from alpaca_jax.self_instruct.run import make
    from alpaca_jax.self_instruct.settings import Settings

    report = make(Settings(connection=take_connection(values), **values))
    if as_json:
        print_json(report)
        return 0
    cost = "unknown" if report["cost_usd"] is None else f"${report['cost_usd']:.4f}"
    print(f"{values['out']}: {report['records']} records from {report['requests']} requests, cost {cost}")
    if values.get("dry_run") and report["predicted_usd"] is not None:
        print(f"predicted for {values['num']} records: ${report['predicted_usd']:.2f}")
    if report["rejected"]:
        print("rejected: " + ", ".join(f"{reason} {count}" for reason, count in report["rejected"].items()))
    return 0


if __name__ == "__main__":
    run_program(main)
