"""Plans every shipped configuration for every GPU and TPU target that it names, and writes the README's table.

    python tools/plan_table.py --update=README.md [--only=GLOB]

The table lies between two marker comments. Each row goes there as soon as it is known; rows that --only leaves out
(`--only='*:tpu_*'`, `--only='alpaca_7b:*'`) stay as they are. GPU targets need the extra `plan` and take some ten
seconds each, TPU targets the extra `tpu` and a minute or two.
"""

import fnmatch
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_jax.planning.devices import compile_on_this_machine
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, write_text_atomic
from alpaca_jax.support.program import Flags, run_program

if TYPE_CHECKING:
    from alpaca_jax.planning.forecast import Forecast

BEGIN, END = "<!-- plan: begin, written by `make plan-all` -->", "<!-- plan: end -->"
HEADER = """\
| configuration | target | fits | state / peak / limit GiB | step s | MFU | tokens/s | whole run | cost |
|---|---|---|---|---|---|---|---|---|
"""
_COMPILERS = ("jax", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "libtpu")

Rows = dict[tuple[str, str], str]


def main() -> int | None:
    """Parses the flags, plans and writes; exit status 1 where a step does not fit."""
    flags = Flags(prog="python tools/plan_table.py", description=__doc__)
    flags.add_argument("--update", metavar="FILE", required=True, help="a text with the two marker comments")
    flags.add_argument("--only", metavar="GLOB", default="*", help="plan these CONFIGURATION:TARGET alone")
    values = flags.parse()
    path = Path(values.update)
    with explain_os_errors(path):
        rows = read_rows(path.read_text(), path)

    compile_on_this_machine()
    from alpaca_jax.planning.forecast import Data, check, forecast
    from alpaca_jax.planning.shipped import shipped_pairs
    from alpaca_jax.training.command_line import read_config

    pairs = sorted(shipped_pairs(Path("configs"), "gpu") + shipped_pairs(Path("configs"), "tpu"))
    chosen = [pair for pair in pairs if fnmatch.fnmatch(":".join(pair), values.only)]
    if not chosen:
        raise UserError("--only", expected="a pattern that fits some of configs/", found=values.only, remedy="widen it")
    all_fit = True
    for name, target in chosen:
        config = read_config(f"configs/{name}.py:{target}", [])
        check(config)
        planned = forecast(config, target, Data())
        all_fit &= planned.compiled.fits
        rows[name, target] = row(name, target, planned)
        kept = {pair: rows[pair] for pair in pairs if pair in rows}
        with explain_os_errors(path):
            write_text_atomic(path, with_rows(path.read_text(), kept, path))
    return 0 if all_fit else 1


def row(name: str, target: str, planned: "Forecast") -> str:
    """A line of the table."""
    plan = planned.as_json()
    minutes = planned.hours * 60
    duration = f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.{0 if minutes >= 10 else 1}f} min"
    cells = [
        f"`{name}`",
        f"`{target}`",
        "yes" if plan["fits"] else "no",
        f"{plan['state_gib']:.1f} / {plan['peak_gib']:.1f} / {plan['limit_gib']:.1f}",
        f"{plan['step_seconds']:.3f}",
        f"{plan['mfu']:.0%}",
        f"{plan['tokens_per_second']:,}",
        duration,
        f"${plan['cost_usd']:,.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def read_rows(text: str, path: Path) -> Rows:
    """The rows that stand there, by configuration and target.

    Raises:
      UserError: a marker is missing, or they do not stand in their order.
    """
    _, inside, _ = _parts(text, path)
    lines = [line for line in inside.splitlines() if line.startswith("| `")]
    cells = ((line.split("|")[1].strip(" `"), line.split("|")[2].strip(" `")) for line in lines)
    return dict(zip(cells, lines, strict=True))


def with_rows(text: str, rows: Rows, path: Path) -> str:
    """The text with these rows, and the versions that made the newest of them, between its markers."""
    before, _, after = _parts(text, path)
    versions = ", ".join(f"{name} {version}" for name in _COMPILERS if (version := _version(name)))
    table = HEADER + "".join(f"{line}\n" for line in rows.values())
    return f"{before}{BEGIN}\n{table}\nLast written with {versions}.\n{END}{after}"


def _parts(text: str, path: Path) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(
            str(path), expected=f"the lines {BEGIN} and {END}", found="not both in this order", remedy="put them back"
        )
    return before, inside, after


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_program(main)
