"""How long `train` takes from the command to its first update with `tiny`, here and in other code.

python tools/bench_start.py [--against=DIR] [--rounds=3] [--json]

DIR is a clone of this project at another commit. Both train on the same rows, in this Python, in work directories that
are new, so that nothing of a run before is found compiled; they take turns, the first of which is not counted. A run is
over when `metrics.jsonl` has its first line. What is told are the medians, and the ratio of each round.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

_HERE = Path(__file__).resolve().parents[1]
_MOST_SECONDS = 300.0


def main() -> None:
    """Parses the flags, lets both take turns, prints the times."""
    flags = Flags(prog="python tools/bench_start.py", description=__doc__)
    flags.add_argument("--against", metavar="DIR", help="a clone at another commit")
    flags.add_argument("--rounds", metavar="N", type=int, default=3, help="turns of each (default: %(default)s)")
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse()
    if values.rounds < 1:
        raise UserError("--rounds", expected="at least 1", found=str(values.rounds), remedy="give another number")
    trees = [_HERE] if values.against is None else [_HERE, _project(Path(values.against))]
    times: list[list[float]] = [[] for _ in trees]
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=512), Path(scratch) / "data")
        for number in range(values.rounds + 1):
            for place, tree in enumerate(trees):
                workdir = Path(scratch) / f"run_{number}_{place}"
                seconds = seconds_to_first_update(tree, Path(scratch) / "data", workdir)
                if number:  # the first turn finds the packages on the disk, not in memory
                    times[place].append(seconds)
    ratios = [here / there for here, there in zip(*times, strict=True)] if len(trees) == 2 else []
    if values.json:
        runs = [{"folder": str(tree), "seconds": taken} for tree, taken in zip(trees, times, strict=True)]
        print_json({"runs": runs, "ratios": ratios})
        return
    for tree, taken in zip(trees, times, strict=True):
        print(f"{statistics.median(taken):6.2f} s  {tree}  ({min(taken):.2f} to {max(taken):.2f})")
    if ratios:
        print(f"{statistics.median(ratios):6.2f} of the time  ({min(ratios):.2f} to {max(ratios):.2f})")


def seconds_to_first_update(tree: Path, data: Path, workdir: Path) -> float:
    """From the start of the process to the first line of its `metrics.jsonl`; it is killed then.

    Args:
      tree: the project's folder.
      data: packed rows.
      workdir: does not exist yet.

    Raises:
      UserError: the program ended without an update, or made none within five minutes.
    """
    command = [sys.executable, "-m", "alpaca_jax.train", "--config=configs/tiny.py:cpu", f"--workdir={workdir}"]
    metrics = workdir / "metrics.jsonl"
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        command += [f"--config.data.path={data}"]
        process = subprocess.Popen(command, cwd=tree, stdout=said, stderr=subprocess.STDOUT)
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - begun > _MOST_SECONDS:
                    said.seek(0)
                    last = said.read().strip().splitlines()[-1:]
                    raise UserError(
                        str(tree),
                        expected=f"a first update within {_MOST_SECONDS:.0f} s",
                        found=" ".join(last) or "none",
                        remedy="run `make quickstart` there, which says more",
                    )
                time.sleep(0.01)
            return time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()


def _project(folder: Path) -> Path:
    if not (folder / "alpaca_jax" / "train.py").is_file():
        raise UserError(
            "--against",
            expected="a clone of this project",
            found=f"no alpaca_jax/train.py in {folder}",
            remedy="git clone it, and git checkout a commit there",
        )
    return folder.resolve()


if __name__ == "__main__":
    run_program(main)
