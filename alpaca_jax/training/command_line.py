"""`--config=FILE[:TARGET]` and `--config.SECTION.KEY=VALUE`, by ml-collections, with errors for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.program import refuse_unknown

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def split_config_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments apart: all others, and those that change a value of the configuration, as `--name=value` each.

    Raises:
      UserError: a `--config.…` at the end without its value.
    """
    others: list[str] = []
    changes: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--config."):
            others.append(argument)
        elif "=" in argument:
            changes.append(argument)
        else:
            value = next(remaining, None)
            if value is None:
                raise UserError(argument, expected="a value", found="none", remedy=f"write {argument}=VALUE")
            changes.append(f"{argument}={value}")
    return others, changes


def read_config(config: str, changes: Sequence[str]) -> "ConfigDict":
    """The configuration of a file, for a target, with changes.

    Args:
      config: `FILE` or `FILE:TARGET`.
      changes: `--config.SECTION.KEY=VALUE` each.

    Raises:
      UserError: no such file, it fails, no such target or key (with the nearest), or a value of the wrong type.
    """
    path = Path(config.split(":")[0])
    if not path.is_file():
        raise UserError(
            "--config",
            expected="a configuration file",
            found=f"no file {str(path)!r}",
            remedy="see the folder configs/",
        )
    try:
        result = _parse([f"--config={config}"])
    except UserError:
        raise
    except Exception as error:  # whatever the file's own code raises
        raise UserError(
            str(path),
            expected="a Python file with get_config(target)",
            found=f"{type(error).__name__}: {shorten(str(error))}",
            remedy="correct the file",
        ) from error
    for change in changes:
        _check_key(change, result)
        _check_value(change, config, result)
    return _parse([f"--config={config}", *changes])


def _parse(arguments: list[str]) -> "ConfigDict":
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    # Without `sys_argv` it would look for the changes in the program's own arguments.
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["train", *arguments])
    values(["train", *arguments])
    return values.config


def _check_key(change: str, config: "ConfigDict") -> None:
    name = change.split("=")[0].removeprefix("--config.")
    known = [f"{section}.{key}" for section, keys in config.items() for key in keys]
    if name not in known:
        refuse_unknown(name, known, f"--config.{name}")


def _check_value(change: str, config: str, defaults: "ConfigDict") -> None:
    from absl import flags

    name, value = change.split("=", 1)
    try:
        _parse([f"--config={config}", change])
    except (flags.Error, TypeError, ValueError) as error:
        section, key = name.removeprefix("--config.").split(".")
        kind = type(defaults[section][key])
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a tuple"}
        raise UserError(
            name, expected=kinds.get(kind, kind.__name__), found=shorten(value), remedy="correct the value"
        ) from error
