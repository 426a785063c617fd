"""Targets: the machine that a configuration is for, chosen by the word after the colon of `--config=FILE:TARGET`."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from alpaca_jax.parallel.chips import TARGETS
from alpaca_jax.support.program import refuse_unknown


def set_target(config: ConfigDict, target: str, choices: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Sets what a target changes.

    Args:
      config: changed in place.
      target: a key of `choices`.
      choices: for each target that the configuration names, the keys that differ there, as `"section.key": value`.

    Returns:
      The same configuration.

    Raises:
      UserError: the configuration does not name that target; the nearest one is given.
    """
    if target not in choices:
        refuse_unknown(target, list(choices), "--config, target")
    config.mesh.platform = TARGETS[target].platform
    for key, value in choices[target].items():
        section, name = key.split(".")
        config[section][name] = value
    return config
