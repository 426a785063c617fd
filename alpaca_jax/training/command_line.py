"""`--config=FILE[:TARGET]` and `--config.SECTION.KEY=VALUE`, by ml-collections, with errors for people."""

import copy
import importlib.util
import re
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
    name, colon, target = config.partition(":")
    defaults = _load(Path(name), [target] if colon else [])
    for change in changes:
        _check_key(change, defaults)
        _check_value(change, defaults)
    return _changed(defaults, changes)


def _load(path: Path, target: list[str]) -> "ConfigDict":
    """What the file's `get_config` returns."""
    from ml_collections import ConfigDict

    from alpaca_jax.training.config import default_config

    if not path.is_file():
        raise UserError(
            "--config",
            expected="a configuration file",
            found=f"no file {str(path)!r}",
            remedy="see the folder configs/",
        )
    expected = "a Python file whose get_config(target) returns a changed default_config()"
    try:
        spec = importlib.util.spec_from_file_location("configuration", path)
        if spec is None or spec.loader is None:
            raise ImportError("its name does not end in .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*target)
    except UserError:
        raise
    except Exception as error:  # whatever the file's own code raises
        if unknown := re.search(r'Key "(\w+)" does not exist', str(error)):
            keys = dict.fromkeys(key for section in default_config().values() for key in section)
            refuse_unknown(unknown[1], list(keys), str(path))
        found = f"{type(error).__name__}: {shorten(str(error), 200)}"
        raise UserError(str(path), expected=expected, found=found, remedy="correct the file") from error
    if not isinstance(config, ConfigDict):
        raise UserError(str(path), expected=expected, found=f"a {type(config).__name__}", remedy="correct the file")
    for section, keys in default_config().items():
        for key, default in keys.items():
            value = config.get(section, {}).get(key) if isinstance(config.get(section, {}), ConfigDict) else None
            if not isinstance(value, (type(default), *((int,) if isinstance(default, float) else ()))):
                found = f"{shorten(value)} for {section}.{key}"
                raise UserError(str(path), expected=expected, found=found, remedy="correct the file")
    return config


def _changed(defaults: "ConfigDict", changes: Sequence[str]) -> "ConfigDict":
    from absl import flags
    from ml_collections import config_flags

    arguments = ["train", *changes]
    values = flags.FlagValues()
    # Without `sys_argv` it would look for the changes in the program's own arguments.
    config_flags.DEFINE_config_dict("config", copy.deepcopy(defaults), flag_values=values, sys_argv=arguments)
    values(arguments)
    return values.config


def _check_key(change: str, config: "ConfigDict") -> None:
    name = change.split("=")[0].removeprefix("--config.")
    known = [f"{section}.{key}" for section, keys in config.items() for key in keys]
    if name not in known:
        refuse_unknown(name, known, f"--config.{name}")


def _check_value(change: str, defaults: "ConfigDict") -> None:
    from absl import flags

    name, value = change.split("=", 1)
    try:
        _changed(defaults, [change])
    except (flags.Error, TypeError, ValueError) as error:
        section, key = name.removeprefix("--config.").split(".")
        kind = type(defaults[section][key])
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", tuple: "a tuple"}
        raise UserError(
            name, expected=kinds.get(kind, kind.__name__), found=shorten(value), remedy="correct the value"
        ) from error
