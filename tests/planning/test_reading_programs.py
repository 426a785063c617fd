"""What is read off a compiled program, held against programs whose figures are known by hand."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alpaca_jax.parallel.chips import CHIPS, TARGETS
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.planning.arithmetic import matrix_flops
from alpaca_jax.planning.devices import memory_limit
from alpaca_jax.planning.estimate import by_kind, estimate
from alpaca_jax.planning.hlo import Collective, Program

LAYERS, ROWS, SIZE = 5, 16, 64


def traced():
    """Five layers of x @ w, the weights split over eight devices and gathered one after the other."""
    mesh = make_mesh({"fsdp": 8})
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))

    def step(weights, x):
        def layer(x, weight):
            whole = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, PartitionSpec()))
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(layer, x, weights)[0]

    weights = jax.ShapeDtypeStruct((LAYERS, SIZE, SIZE), jnp.float32, sharding=split)
    return jax.jit(step).trace(weights, jax.ShapeDtypeStruct((ROWS, SIZE), jnp.float32, sharding=rows))


@pytest.fixture(scope="module")
def program():
    return traced()


def test_products_count_every_turn_of_a_loop(program):
    assert matrix_flops(program, open_loops=1) == LAYERS * 2 * ROWS * SIZE * SIZE


def test_recomputation_is_counted():
    def loss(weight, x):
        return jnp.sum(jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ weight) @ weight))(x))

    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    product = 2 * SIZE**3
    once = jax.jit(loss).trace(shape, shape)
    assert matrix_flops(once, open_loops=1) == 2 * product
    both = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(shape, shape)
    assert matrix_flops(both, open_loops=1) == (2 + 2 + 4) * product


def test_a_loop_without_an_end_takes_the_number_given():
    def until(x, turns):
        return jax.lax.fori_loop(0, turns, lambda _, x: x @ x, x)

    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    open_ended = jax.jit(until).trace(shape, jax.ShapeDtypeStruct((), jnp.int32))
    assert matrix_flops(open_ended, open_loops=3) == 3 * 2 * SIZE**3


def test_collectives_of_a_loop_are_counted_each_turn(program):
    found = Program(program.lower().compile().as_text()).collectives()
    assert by_kind(found) == {"all-gather": {"times": LAYERS, "gib": pytest.approx(0.0, abs=1e-3)}}
    assert sum(one.sent() for one in found) == pytest.approx(LAYERS * SIZE * SIZE * 4 * 7 / 8)


def test_a_slice_of_a_stack_counts_as_a_slice():
    def last(stack):
        return jax.lax.scan(lambda total, one: (total + jnp.sum(jnp.sin(one)), None), 0.0, stack)[0]

    stack = jax.ShapeDtypeStruct((1000, 4096), jnp.float32)
    moved = Program(jax.jit(last).lower(stack).compile().as_text()).moved()
    assert 1000 * 4096 * 4 <= moved < 10 * 1000 * 4096 * 4


def test_rings():
    gib = 2**30
    assert Collective("all-gather", 8, gib, 2).sent() == pytest.approx(2 * gib * 7 / 8)
    assert Collective("all-reduce", 4, gib, 1).sent() == pytest.approx(2 * gib * 3 / 4)


def test_the_estimate_follows_the_slower_of_arithmetic_and_communication():
    chip, target = CHIPS["a100_80gb"], TARGETS["a100x8"]
    busy = estimate(chip, target, flops=1e14, moved=0, collectives=[])
    assert busy.step == pytest.approx(1e14 / (312e12 * 0.75))
    talking = estimate(chip, target, flops=1e12, moved=0, collectives=[Collective("all-gather", 8, 2**38, 1)])
    assert talking.step > talking.communication > 0.9 * talking.step
    apart = estimate(CHIPS["h100"], TARGETS["h100x32"], 0, 0, [Collective("all-gather", 32, 2**30, 1)])
    near = estimate(CHIPS["h100"], TARGETS["h100x32"], 0, 0, [Collective("all-gather", 8, 2**30, 1)])
    assert apart.communication > 5 * near.communication


@pytest.mark.parametrize("name", TARGETS)
def test_targets_name_chips_that_are_known(name):
    target = TARGETS[name]
    if target.chip:
        assert CHIPS[target.chip].platform == target.platform
        assert 0.9 < memory_limit(CHIPS[target.chip]) / CHIPS[target.chip].memory < 1
        sizes = target.topology.split(":")[-1].split("x")
        assert target.devices == math.prod(map(int, sizes))
