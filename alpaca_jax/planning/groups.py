"""Which devices take part in a collective, from the ways in which XLA writes its groups.

replica_groups={{0,1},{2,3}}                                       one after another
replica_groups=[2,2]<=[4]                                          0, 1, 2, 3 in rows of two
replica_groups=[2,2]<=[2,2]T(1,0)                                  the same, its axes exchanged: {0,2}, {1,3}
replica_groups=mesh['data'=2,'fsdp'=2] {'fsdp'}                    over an axis of a mesh
replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}   whose devices stand in another order
source_target_pairs={{0,1},{1,0},{2,3},{3,2}}                      who sends to whom
"""

import math
import re

import numpy as np


def first_group(rest: str) -> tuple[int, ...]:
    """The devices of the first group that take part, in any of the ways in which XLA writes it; none of several: ().

    Raises:
      ValueError: it is written in another way.
    """
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", rest):
        return _group_of_axes(mesh[1], mesh[2], mesh[3])
    if numbers := re.search(r"replica_groups=\[\d+,(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _places(_numbers(numbers[2])[: int(numbers[1])])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return _places(_numbers(listed[1]))
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", rest):
        targets = {int(a): int(b) for a, b in re.findall(r"(\d+),(\d+)", pairs[1])}
        chain = [next(iter(targets))]
        while (target := targets.get(chain[-1])) is not None and target not in chain:
            chain.append(target)
        return tuple(chain)
    if found := re.search(r"replica_groups=(?!\{\}).{,80}", rest):
        raise ValueError(f"groups of devices in a form that is not known: {found[0]}")
    return ()


def _group_of_axes(mesh: str, order: str | None, chosen: str) -> tuple[int, ...]:
    """'a'=2,'b'=4, the devices' order if it is not 0, 1, 2 …, and 'b' or a part of it, 'b':(1)2: the group over b."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    shape: list[int] = []
    axes: list[int] = []
    parts = {name: (before, size) for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen)}
    for name, size in sizes.items():
        before, part = (int(number or 0) for number in parts.get(name, (0, 0)))
        before, part = (before, part) if part else (1, size if name in parts else 1)
        axes.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    numbers = _numbers(order) if order else np.arange(math.prod(shape))
    others = [axis for axis in range(len(shape)) if axis not in axes]
    group = math.prod(shape[axis] for axis in axes)
    return _places(numbers.reshape(shape).transpose(*others, *axes).ravel()[:group])


def _numbers(text: str) -> np.ndarray:
    """0,2,1,3, or the same in short, [2,2]T(1,0): 0, 1, 2 … in that shape, its axes in that order."""
    if not text.startswith("["):
        return np.array([int(number) for number in text.split(",")])
    sizes, _, axes = text.partition("T")
    shape = [int(size) for size in sizes.strip("[]").split(",")]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers.transpose([int(axis) for axis in axes.strip("()").split(",")]) if axes else numbers).ravel()


def _places(numbers: np.ndarray) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)
