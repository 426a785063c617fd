"""The one table from logical axis names to mesh axes, and what follows from it.

A parameter names its axes where it is made (`("embed", "mlp")`); an activation names them where it is constrained.
Nothing else in the code says where an array lies. A name that the table lacks is an error, and so is a table that
would put two axes of one array on the same mesh axis: nothing is replicated because somebody forgot it.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alpaca_jax.support.errors import UserError

MeshAxes = str | tuple[str, ...] | None

LOGICAL_TO_MESH: Mapping[str, MeshAxes] = {
    # parameters
    "layers": None,  # scanned over, one after the other
    "vocab": "tensor",
    "embed": ("fsdp", "context"),
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "gathered": None,  # `embed` while in use
    "norm": None,  # a few thousand numbers: gathering them would cost more than keeping them
    "bias": None,  # of the hidden size; as a norm's
    # activations
    "batch": ("data", "fsdp"),
    "sequence": "context",
    "whole_sequence": None,  # keys and values while in use
    "tokens": ("data", "fsdp", "context"),  # of a batch, rows and positions together
    "chunk": None,  # of trained tokens
    "activation_embed": None,
    "activation_heads": "tensor",
    "activation_mlp": "tensor",
    "activation_vocab": "tensor",
}


# What an axis is called while it is gathered.
_GATHERED = {"embed": "gathered", "sequence": "whole_sequence"}


def _mesh_axes(logical_axis: str) -> tuple[str, ...]:
    """The mesh axes that the table gives a logical axis."""
    axes = LOGICAL_TO_MESH[logical_axis]
    return (axes,) if isinstance(axes, str) else axes or ()


def partition_spec(logical_axes: tuple[str, ...]) -> PartitionSpec:
    """The mesh axes of an array whose axes have these logical names.

    Raises:
      KeyError: a name that the table lacks.
      ValueError: two axes of the array on one mesh axis.
    """
    for name in logical_axes:
        if name not in LOGICAL_TO_MESH:
            raise KeyError(f"logical axis {name!r} is not in LOGICAL_TO_MESH (it has {', '.join(LOGICAL_TO_MESH)})")
    spec = tuple(LOGICAL_TO_MESH[name] for name in logical_axes)
    used = [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    if len(used) != len(set(used)):
        raise ValueError(f"the axes {logical_axes} would lie twice on one mesh axis: {spec}")
    return PartitionSpec(*spec)


def parameter_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """A tree of `NamedSharding`, one for each parameter.

    Args:
      mesh: the devices.
      logical_axes: a tree with a tuple of logical names at each parameter.
      shapes: the same tree with an array or `jax.ShapeDtypeStruct` at each parameter.

    Raises:
      UserError: an axis of a parameter does not divide by the mesh axes that it is laid over.
    """

    def sharding(path: Any, shaped: Any, axes: tuple[str, ...]) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if len(axes) != len(shaped.shape):
            raise ValueError(f"{name} has shape {shaped.shape} but names the axes {axes}")
        spec = partition_spec(axes)
        for axis, size, entry in zip(axes, shaped.shape, spec, strict=True):
            over = [entry] if isinstance(entry, str) else list(entry or ())
            parts = 1
            for mesh_axis in over:
                parts *= mesh.shape[mesh_axis]
            if size % parts:
                raise UserError(
                    f"mesh axis {'×'.join(over)}",
                    expected=f"a size that divides axis {axis!r} of {name}, {size}",
                    found=f"size {parts}",
                    remedy=f"set --config.mesh.{over[0]} to a divisor of {size}",
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, shapes, logical_axes)


def constrain(array: jax.Array, *logical_axes: str) -> jax.Array:
    """Tells the compiler where an activation lies; outside a mesh (`jax.set_mesh`) it does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(logical_axes))


def group_tokens(array_BL: jax.Array) -> jax.Array:
    """[B, L, …] to [G, T, …]: the tokens that lie together on a device, or on those of a tensor group, in one row of G.

    Outside a mesh there is one group.
    """
    rows, length, *rest = array_BL.shape
    mesh = jax.sharding.get_abstract_mesh()
    parts = {} if mesh.empty else mesh.shape
    over_rows, over_length = (
        math.prod(parts.get(axis, 1) for axis in _mesh_axes(name)) for name in ("batch", "sequence")
    )
    split = array_BL.reshape(over_rows, rows // over_rows, over_length, length // over_length, *rest)
    together = split.swapaxes(1, 2).reshape(over_rows * over_length, -1, *rest)
    return constrain(together, "tokens", *(["activation_embed"] * (len(rest) + 1)))


def gather(weight: jax.Array, logical_axes: tuple[str, ...], dtype: Any = None) -> jax.Array:
    """A weight collected over `fsdp` and `context` for its use, still split over `tensor`; its gradient is scattered.

    Keys and values are collected over `context` in the same way.

    Said here and not left to the compiler, which may choose to move the far larger activations instead, or to sum
    whole gradients on every device.

    Args:
      weight: as it lies.
      logical_axes: of its axes.
      dtype: what it is brought to before it travels, as its gradient is back after; None leaves it.
    """
    return _gather(weight, logical_axes, weight.dtype if dtype is None else dtype, weight.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(weight: jax.Array, logical_axes: tuple[str, ...], dtype: Any, own: Any) -> jax.Array:
    axes = tuple(_GATHERED.get(axis, axis) for axis in logical_axes)
    return constrain(weight.astype(dtype), *axes)


def _gather_forward(weight: jax.Array, logical_axes: tuple[str, ...], dtype: Any, own: Any) -> tuple[jax.Array, None]:
    return _gather(weight, logical_axes, dtype, own), None


def _gather_backward(
    logical_axes: tuple[str, ...], dtype: Any, own: Any, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (constrain(gradient, *logical_axes).astype(own),)


_gather.defvjp(_gather_forward, _gather_backward)


def sharding_table(logical_axes: Any, shapes: Any) -> list[tuple[str, tuple[int, ...], tuple[str, ...], PartitionSpec]]:
    """Rows (name, shape, logical axes, mesh axes) of every parameter, for people to read."""
    rows: list[tuple[str, tuple[int, ...], tuple[str, ...], PartitionSpec]] = []

    def add(path: Any, shaped: Any, axes: tuple[str, ...]) -> None:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, shaped.shape, axes, partition_spec(axes)))

    jax.tree_util.tree_map_with_path(add, shapes, logical_axes)
    return rows
