"""Targets: the machine that a configuration is for, chosen by the word after the colon of `--config=FILE:TARGET`."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from alpaca_jax.support.program import refuse_unknown


def set_target(config: ConfigDict, target: str, meshes: Mapping[str, Mapping[str, int | str]]) -> None:
    """Sets `config.mesh` for a target.

    Args:
      config: changed in place.
      target: a key of `meshes`.
      meshes: for each target that the configuration names, what differs from the default mesh.

    Raises:
      UserError: the configuration does not name that target; the nearest one is given.
    """
    if target not in meshes:
        refuse_unknown(target, list(meshes), "--config, target")
    for key, value in meshes[target].items():
        config.mesh[key] = value
