"""Meshes by name: which devices there are, and how they are laid out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from alpaca_jax.parallel.processes import rows_of_this_process
from alpaca_jax.parallel.sharding import partition_spec
from alpaca_jax.support.errors import UserError

# data: whole copies of the model; fsdp: the batch and the parameters split; context: the positions of a row, and the
# parameters again; tensor: each matrix product split.
MESH_AXES = ("data", "fsdp", "context", "tensor")


def use_cpu_devices(count: int) -> None:
    """Makes this process have `count` virtual devices of the CPU; must come before JAX is first used.

    Raises:
      RuntimeError: JAX has already started with other devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    if jax.local_device_count() != count:
        raise RuntimeError(f"JAX started with {jax.local_device_count()} devices before {count} were asked for")


def require_platform(platform: str) -> None:
    """Refuses to run on other devices than those asked for.

    Args:
      platform: gpu or tpu.

    Raises:
      UserError: JAX found others.
    """
    if jax.default_backend() != platform:
        raise UserError(
            "config.mesh.platform",
            expected=f"{platform} devices",
            found=f"{jax.device_count()} × {jax.devices()[0].device_kind}",
            remedy=f"install the extra {platform!r} on a machine that has them, or choose the target cpu",
        )


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, laid out so that neighbours on the last axes are joined by the fastest links.

    Where the devices are several TPU slices, the axis `data` runs over them first, as only it talks seldom enough for
    the network between slices.

    Args:
      sizes: the size of each axis of `MESH_AXES`, 1 where it is left out; one of them may be -1, which stands for what
        is left.
      devices: which to use; None for all of this run.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `data` does not divide by the slices.
    """
    devices = jax.devices() if devices is None else devices
    if unknown := sizes.keys() - set(MESH_AXES):
        raise ValueError(f"no such mesh axis: {', '.join(sorted(unknown))}")
    shape = _resolve([sizes.get(axis, 1) for axis in MESH_AXES], len(devices))
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh

    slices = len({getattr(device, "slice_index", None) or 0 for device in devices})
    if slices == 1:
        # An axis of the mesh may take a part of one of the torus, as tensor 2 does on 4 × 4 × 4 chips.
        laid_out = create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(laid_out, MESH_AXES, axis_types=axis_types)
    data, *rest = shape
    if data % slices:
        raise UserError(
            "config.mesh.data",
            expected=f"a multiple of {slices}, the number of TPU slices",
            found=str(data),
            remedy=f"set --config.mesh.data={slices}",
        )
    within, between = (data // slices, *rest), (slices, *[1] * len(rest))
    laid_out = create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, MESH_AXES, axis_types=axis_types)


def _resolve(shape: list[int], devices: int) -> list[int]:
    """The sizes of the axes, with the one that stands for the rest worked out."""
    asked = " × ".join(f"{axis} {size}" for axis, size in zip(MESH_AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise UserError(
            "config.mesh", expected="positive sizes, at most one of them -1", found=asked, remedy="correct the sizes"
        )
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and devices % known == 0:
        shape = [devices // known if size == -1 else size for size in shape]
    if math.prod(shape) != devices:
        raise UserError(
            "config.mesh",
            expected=f"sizes that multiply to the {devices} devices here",
            found=asked,
            remedy="change --config.mesh." + ", --config.mesh.".join(MESH_AXES),
        )
    return shape


def without_context(mesh: Mesh) -> Mesh:
    """The same devices, `context` counted to `fsdp`: parameters lie where they lay, and rows may have any length."""
    data, fsdp, context, tensor = mesh.devices.shape
    return Mesh(mesh.devices.reshape(data, fsdp * context, 1, tensor), MESH_AXES, axis_types=mesh.axis_types)


def batch_divisor(mesh: Mesh) -> int:
    """Into how many parts the mesh splits the rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How the rows of a batch, [rows, L], lie on the mesh."""
    return NamedSharding(mesh, partition_spec(("batch", "sequence")))


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays laid over the mesh, of which this process gives its own rows, [rows, L] each."""
    sharding = batch_sharding(mesh)
    _, parts = rows_of_this_process(sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (len(rows) * parts, rows.shape[1]))
        for name, rows in batch.items()
    }
