"""Outputs (.jsonl) that an earlier run began: gone on with where they are ours, and begun with the same settings."""

from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError, shorten


def check_name(out: Path) -> None:
    """Refuses a name that does not end in .jsonl.

    Raises:
      UserError: it does not.
    """
    if out.suffix != ".jsonl":
        remedy = "choose another name"
        raise UserError("--out", expected="a name that ends in .jsonl", found=out.name, remedy=remedy)


def beside(out: Path, what: str) -> Path:
    """Where a file that accompanies an output lies: OUT.jsonl → OUT.WHAT, as `requests.jsonl` or `run.json`."""
    return out.with_name(f"{out.stem}.{what}")


def check_output(out: Path, beside: Path) -> None:
    """Refuses an output that lies there without the file that says how it was made.

    Raises:
      UserError: it does.
    """
    if out.exists() and not beside.exists():
        expected = f"a file that does not exist, or one with {beside.name}"
        remedy = "choose another name, or move the file away"
        raise UserError(str(out), expected=expected, found="a file alone", remedy=remedy)


def check_settings(path: Path, now: dict[str, Any], begun: dict[str, Any]) -> None:
    """Refuses to go on with other settings than those that an output was begun with, which stand in `path`.

    Raises:
      UserError: they differ; it names the first of them.
    """
    for name in sorted(now.keys() | begun.keys()):
        if now.get(name) != begun.get(name):
            raise UserError(
                str(path),
                expected=f"{name} = {shorten(now.get(name))}, as now",
                found=f"{shorten(begun.get(name))}, with which it was begun",
                remedy="go on with that value, or choose another --out",
            )
