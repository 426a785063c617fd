"""The wires of collectives: within a machine or a slice, along the axes of its torus, or between machines."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from alpaca_jax.parallel.chips import Chip, Target
from alpaca_jax.planning.hlo import Collective


def placed(collectives: Sequence[Collective], devices: Sequence[Any], target: Target) -> list[Collective]:
    """The collectives, each with the machines (of TPUs: slices) and the links that its group uses.

    Args:
      collectives: their groups are places in `devices`.
      devices: in the order of the mesh.
      target: what they are part of.
    """
    return [_placed(one, [devices[place] for place in one.group], target) for one in collectives]


def _placed(one: Collective, group: list[Any], target: Target) -> Collective:
    if not group:
        return one
    if target.platform == "gpu":
        return dataclasses.replace(one, machines=len({device.process_index for device in group}))
    slices = len({getattr(device, "slice_index", None) for device in group})
    axes = sum(len(set(places)) > 1 for places in zip(*(device.coords for device in group), strict=True))
    links = max(axes, 1) / len(target.topology.split("x"))
    return dataclasses.replace(one, machines=slices, links=links)


def seconds(one: Collective, chip: Chip) -> float:
    """How long a collective of a step takes at the full rate of its wires, near and far at the same time."""
    return max(one.sent() / (chip.link * one.links), one.sent_between() / chip.network)
