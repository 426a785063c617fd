"""Meshes by name: which devices there are, and how they are laid out."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from alpaca_jax.parallel.sharding import partition_spec
from alpaca_jax.support.errors import UserError

# data: whole copies of the model; fsdp: the batch and the parameters split; tensor: each matrix product split.
MESH_AXES = ("data", "fsdp", "tensor")


def use_cpu_devices(count: int) -> None:
    """Makes this process see `count` virtual devices of the CPU; must come before JAX is first used.

    Raises:
      RuntimeError: JAX has already started with other devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    if jax.device_count() != count:
        raise RuntimeError(f"JAX started with {jax.device_count()} devices before {count} were asked for")


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


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """A mesh over all devices.

    Args:
      sizes: the size of each axis of `MESH_AXES`; one of them may be -1, which stands for what is left.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    shape = [sizes[axis] for axis in MESH_AXES]
    asked = " × ".join(f"{axis} {size}" for axis, size in zip(MESH_AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise UserError(
            "config.mesh", expected="positive sizes, at most one of them -1", found=asked, remedy="correct the sizes"
        )
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and devices % known == 0:
        shape[shape.index(-1)] = devices // known
    if math.prod(shape) != devices:
        raise UserError(
            "config.mesh",
            expected=f"sizes that multiply to the {devices} devices here",
            found=asked,
            remedy="change --config.mesh.data, --config.mesh.fsdp or --config.mesh.tensor",
        )
    return jax.make_mesh(tuple(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def batch_divisor(mesh: Mesh) -> int:
    """Into how many parts the mesh splits the rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How the rows of a batch, [rows, L], lie on the mesh."""
    return NamedSharding(mesh, partition_spec(("batch", "sequence")))


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays laid over the mesh, of which this process gives its own rows, [rows, L] each."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
