"""Foresees a run: compiles its train step for the real chip, none attached, and says whether it fits and what it costs.

Memory and collectives are read from the compiled program; the time is an estimate from its arithmetic, its memory
traffic and its communication against the chip's figures, with the efficiencies that are printed with it. Exit code 1
where the step does not fit.
"""

import math
import sys
from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

if TYPE_CHECKING:
    from alpaca_jax.planning.forecast import Forecast

_EXAMPLE = """
examples:
  python -m alpaca_jax.plan --config=configs/alpaca_7b.py:a100x8 --price=2.00
  python -m alpaca_jax.plan --config=configs/alpaca_7b.py:h200x1 --search
"""


def main() -> int | None:
    """Parses the flags, compiles, prints; exit status 1 where the step does not fit."""
    from alpaca_jax.training.command_line import read_config, split_config_flags

    flags = Flags(prog="python -m alpaca_jax.plan", description=__doc__, epilog=_EXAMPLE)
    flags.add_argument("--config", metavar="FILE:TARGET", required=True, help="a file of configs/, one of its targets")
    flags.add_argument("--config.SECTION.KEY", metavar="VALUE", help="changes one value of the configuration")
    flags.add_argument("--price", metavar="USD", type=float, help="of one device for an hour (a rough table otherwise)")
    flags.add_argument("--search", action="store_true", help="try microbatches and rematerialisations")
    flags.add_argument("--records", metavar="N", type=int, help="records to train on (default 52,002, as Alpaca)")
    flags.add_argument("--tokens_per_record", metavar="N", type=float, help="their mean length (default 127.5)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    arguments, changes = split_config_flags(sys.argv[1:])
    values = flags.parse(arguments)
    _, colon, target = values.config.partition(":")
    if not colon:
        raise UserError("--config", expected="FILE:TARGET", found=values.config, remedy="name a target after a colon")
    for name in ("price", "records", "tokens_per_record"):
        value = getattr(values, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name}", expected="a positive number", found=str(value), remedy="correct it")

    from alpaca_jax.planning.devices import compile_on_this_machine

    compile_on_this_machine()
    from alpaca_jax.planning.forecast import Data, check, fewest_microbatches, forecast, search

    config = read_config(values.config, changes)
    check(config)
    data = Data()
    data = Data(values.records or data.records, values.tokens_per_record or data.tokens)
    if values.search:
        tried = list(search(config, target, data, values.price))
        _print_search(tried)
        result = min(tried, key=lambda one: (not one.compiled.fits, one.step_seconds))
        fewest = result.config.train.microbatches if result.compiled.fits else None
    else:
        result = forecast(config, target, data, values.price)
        fewest = fewest_microbatches(result)
    rows = config.train.batch_rows // fewest if fewest else 0
    if values.json:
        print_json(result.as_json() | {"largest_microbatch_rows": rows})
    else:
        _print(result, rows)
    return 0 if result.compiled.fits else 1


def _print(result: "Forecast", largest: int) -> None:
    from rich.table import Table

    from alpaca_jax.support.progress import console

    plan, config, target = result.as_json(), result.config, result.target
    verdict = "[green]fits[/]" if plan["fits"] else "[red]does not fit[/]"
    console.print(f"{config.model.preset} on {target.devices} × {target.chip}: {verdict}")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("memory of a device", f"{plan['state_gib']} GiB state, {plan['peak_gib']} GiB peak")
    table.add_row("", f"{plan['limit_gib']} GiB limit")
    batch = f"{config.train.batch_rows} rows of {config.data.seq_len}, microbatches: {plan['microbatches']}"
    table.add_row("batch", batch)
    table.add_row("largest microbatch", f"{largest} rows" if largest else "none fits")
    table.add_row("rematerialisation", plan["remat"])
    for kind, row in plan["collectives"].items():
        table.add_row(kind, f"{row['times']:,} a step, a device sends {row['gib']:.2f} GiB")
    table.add_row("kernels", ", ".join(plan["kernels"]) or "the compiler's own")
    parts = plan["step_parts"]
    table.add_row("step, estimated", f"{plan['step_seconds']:.3f} s: products {parts['products']:.3f},")
    table.add_row("", f"fused attention {parts['attention']:.3f}, other kernels {parts['memory']:.3f},")
    beside = f"communication {parts['communication']:.3f}" + (f", host {parts['host']:.3f}" if parts["host"] else "")
    table.add_row("", f"{beside} (beside them)")
    table.add_row("speed, estimated", f"{plan['tokens_per_second']:,} tokens/s, MFU {plan['mfu']:.0%}")
    table.add_row("whole run", f"{plan['updates']:,} updates, {_duration(plan['hours'])}")
    table.add_row("cost", f"${plan['cost_usd']:,.2f} at ${plan['price_usd_per_device_hour']:g} a device and hour")
    table.add_row("compiled in", f"{plan['compile_seconds']} s, here")
    console.print(table, markup=False)
    console.print("assumed: " + "; ".join(plan["assumptions"]), markup=False)


def _print_search(tried: "list[Forecast]") -> None:
    from rich.table import Table

    from alpaca_jax.support.progress import console

    table = Table("remat", "microbatches", "peak GiB", "fits", "step s", "MFU", box=None, pad_edge=False)
    for one in sorted(tried, key=lambda one: one.step_seconds):
        fits = "yes" if one.compiled.fits else "no"
        peak = f"{one.compiled.peak / 2**30:.1f}"
        microbatches = str(one.config.train.microbatches)
        table.add_row(one.config.model.remat, microbatches, peak, fits, f"{one.step_seconds:.3f}", f"{one.mfu:.0%}")
    console.print(table)


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.1f} minutes"


if __name__ == "__main__":
    run_program(main)
