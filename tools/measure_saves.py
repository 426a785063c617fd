"""Measures what a save costs the training loop, and holds it against the time between two of them.

    python -m tools.measure_saves --config=configs/smollm2_135m.py:cpu --config.model.checkpoint=BASE
        --config.data.path=DATA [--saves=3] [--between=8] [--json]

One real run, in a temporary folder, saves after every few updates. Each save costs twice: the loop stands still while
the state is copied (`blocked`), and the updates made while it is written are slower (`slowed`: the first half of the
updates after it, over what as many of the others take by their median, those of the second half). Both together, over
the time that the updates between two saves take at the configuration's own `checkpoint.every`, are the share of the
training that saving costs. Evaluations and sample answers are left out. On a machine that does nothing else.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program
from alpaca_jax.training.clock import Clock
from alpaca_jax.training.command_line import split_config_flags


class SaveClock(Clock):
    """Notes how long the loop stood still at each save."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """See `Clock`."""
        start = time.perf_counter()
        with super().part(name):
            yield
        if name == "saves":
            self.blocked.append(time.perf_counter() - start)


def main() -> int | None:
    """Parses the flags, trains, and prints."""
    arguments, changes = split_config_flags(sys.argv[1:])
    flags = Flags(prog="python -m tools.measure_saves", description=__doc__)
    flags.add_argument("--config", required=True, metavar="FILE[:TARGET]", help="what to train")
    flags.add_argument("--config.SECTION.KEY", metavar="VALUE", help="changes one value of the configuration")
    flags.add_argument("--saves", metavar="N", type=int, default=3, help="how many to measure (default 3)")
    flags.add_argument("--between", metavar="N", type=int, default=8, help="updates between them (default 8)")
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse(arguments)
    for name, least in (("saves", 1), ("between", 2)):
        if getattr(values, name) < least:
            raise UserError(f"--{name}", expected=f"at least {least}", found=getattr(values, name), remedy="raise it")
    figures = measure(values.config, changes, values.saves, values.between)
    update, blocked, slowed = (figures[f"{name}_seconds"] for name in ("update", "blocked", "slowed"))
    print(
        f"an update {update:.2f} s; a save blocks {blocked:.2f} s and slows the next by {slowed:.2f} s; "
        f"one after every {figures['every']} takes {figures['share']:.2%} of the time",
        file=sys.stderr,
    )
    if values.json:
        print_json(figures)
    return 0


def measure(name: str, changes: list[str], saves: int, between: int) -> dict[str, float]:
    """The medians over the saves; all in seconds, but `every` in updates and `share` of 1."""
    from alpaca_jax.parallel.compiler_options import set_environment

    set_environment()
    from alpaca_jax.training.command_line import read_config
    from alpaca_jax.training.loop import train
    from alpaca_jax.training.preemption import StopRequests
    from alpaca_jax.training.run import prepare_run

    every = read_config(name, changes).checkpoint.every
    steps = between * (saves + 1)
    settings = [f"checkpoint.every={between}", "checkpoint.keep_best=0", f"train.steps={steps}", "evaluation.every=0"]
    config = read_config(name, [*changes, *(f"--config.{one}" for one in [*settings, "samples.instructions=()"])])
    clock = SaveClock()
    with tempfile.TemporaryDirectory() as folder, StopRequests() as stops:
        train(prepare_run(config, Path(folder) / "run"), clock, stops)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    half = between // 2
    # Of the updates after each save, and not of those before the first.
    groups = [seconds[first : first + between] for first in range(between, len(seconds), between)]
    calm = statistics.median(second for group in groups for second in group[half:])
    # The last save, which is waited for to its end, and that waiting are not the loop's.
    blocked = statistics.median(clock.blocked[:saves])
    slowed = statistics.median(sum(group[:half]) - half * calm for group in groups)
    return {
        "update_seconds": calm,
        "blocked_seconds": blocked,
        "slowed_seconds": slowed,
        "every": every,
        "share": (blocked + slowed) / (every * calm),
    }


if __name__ == "__main__":
    run_program(main)
