"""The table from logical axes to the mesh, and meshes that do not fit."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from alpaca_jax.model.definition import define
from alpaca_jax.model.presets import PRESETS
from alpaca_jax.parallel.mesh import make_mesh, place_batch
from alpaca_jax.parallel.sharding import parameter_shardings, partition_spec
from alpaca_jax.support.errors import UserError


def sizes(data: int, fsdp: int, tensor: int, context: int = 1) -> dict[str, int]:
    return {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}


def test_an_axis_without_an_entry_is_an_error():
    with pytest.raises(KeyError, match="experts"):
        partition_spec(("layers", "experts"))


def test_two_axes_on_one_mesh_axis_are_an_error():
    with pytest.raises(ValueError, match="twice"):
        partition_spec(("heads", "mlp"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_large_parameter_is_split(name: str):
    definition = define(PRESETS[name])
    specs = jax.tree.map(partition_spec, definition.logical_axes, is_leaf=lambda axes: isinstance(axes, tuple))
    for shape, spec in zip(
        jax.tree.leaves(definition.shapes),
        jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)),
        strict=True,
    ):
        assert (("fsdp", "context") in spec and "tensor" in spec) or shape.size < 1_000_000


@pytest.mark.parametrize("mesh_sizes", [sizes(1, 4, 2), sizes(1, 2, 2, context=2)], ids=str)
def test_state_is_split_over_all_devices(mesh_sizes):
    definition = define(PRESETS["tiny"])
    mesh = make_mesh(mesh_sizes)
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    parameters = jax.jit(definition.initialise, static_argnums=0, out_shardings=shardings)(0)
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(parameters))
    norms = (2 * 4 + 1) * 128
    assert held == (PRESETS["tiny"].num_parameters - norms) // 8 + norms


def test_weights_do_not_depend_on_the_mesh():
    definition = define(PRESETS["tiny"])
    made = []
    for mesh in (make_mesh(sizes(8, 1, 1)), make_mesh(sizes(1, 4, 2))):
        shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
        made.append(jax.jit(definition.initialise, static_argnums=0, out_shardings=shardings)(7))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(jax.device_get(a), jax.device_get(b)), *made)


def test_one_size_may_be_left_open():
    assert dict(make_mesh(sizes(2, -1, 2)).shape) == sizes(2, 2, 2)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks a TPU for to lay out a mesh."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    core_on_chip: int = 0
    slice_index: int = 0
    process_index: int = 0


def test_a_mesh_axis_may_take_a_part_of_an_axis_of_the_torus():
    chips = [Chip(number, place) for number, place in enumerate(np.ndindex(4, 4, 4))]
    laid_out = make_mesh(sizes(1, 32, 2), chips).devices
    assert laid_out.shape == (1, 32, 1, 2)
    assert {chip.id for chip in laid_out.flat} == set(range(64))
    steps = [
        sum(abs(a - b) for a, b in zip(*(chip.coords for chip in pair), strict=True)) for pair in laid_out[0, :, 0]
    ]
    assert max(steps) <= 2


@pytest.mark.parametrize("bad", [(1, 3, 2), (1, -1, 3), (-1, -1, 1), (0, 8, 1), (2, 8, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(bad: tuple[int, int, int]):
    with pytest.raises(UserError, match="mesh"):
        make_mesh(sizes(*bad))


def test_a_mesh_that_does_not_divide_a_parameter_is_refused():
    definition = define(PRESETS["tiny"])
    with pytest.raises(UserError, match=r"mesh axis tensor: .*kv_heads.*2; found size 8"):
        parameter_shardings(make_mesh(sizes(1, 1, 8)), definition.logical_axes, definition.shapes)


def test_a_placed_batch_keeps_its_rows():
    rows = np.arange(8 * 3).reshape(8, 3)
    placed = place_batch(make_mesh(sizes(2, 2, 2)), {"tokens": rows})["tokens"]
    np.testing.assert_array_equal(placed, rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
