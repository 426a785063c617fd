"""What is read off a compiled program, held against programs whose figures are known by hand."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alpaca_jax.parallel.chips import CHIPS, TARGETS
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.planning.arithmetic import Flops, matrix_flops
from alpaca_jax.planning.compiler import CompiledStep
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
    assert matrix_flops(program, open_loops=1).products == LAYERS * 2 * ROWS * SIZE * SIZE


def test_recomputation_is_counted():
    def loss(weight, x):
        return jnp.sum(jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ weight) @ weight))(x))

    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    product = 2 * SIZE**3
    once = jax.jit(loss).trace(shape, shape)
    assert matrix_flops(once, open_loops=1).products == 2 * product
    both = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(shape, shape)
    assert matrix_flops(both, open_loops=1).products == (2 + 2 + 4) * product


def test_a_loop_without_an_end_takes_the_number_given():
    def until(x, turns):
        return jax.lax.fori_loop(0, turns, lambda _, x: x @ x, x)

    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    open_ended = jax.jit(until).trace(shape, jax.ShapeDtypeStruct((), jnp.int32))
    assert matrix_flops(open_ended, open_loops=3).products == 3 * 2 * SIZE**3


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


def fused(q, k, v, mask):
    return jnp.sum(jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn"))


def test_a_fused_kernel_counts_the_pairs_below_the_diagonal():
    rows, length, heads, size = 2, 256, 4, 64
    q = jax.ShapeDtypeStruct((rows, length, heads, size), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((rows, length, heads // 2, size), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((rows, 1, length, length), bool)
    product = 2 * rows * heads * length * length * size / 2
    forward = jax.jit(fused).trace(q, k, k, mask)
    assert matrix_flops(forward, open_loops=1) == Flops(0, 2 * product)
    both = jax.jit(jax.grad(fused, argnums=(0, 1, 2))).trace(q, k, k, mask)
    assert matrix_flops(both, open_loops=1) == Flops(0, 7 * product)


def test_a_cut_within_a_kernel_counts_as_what_it_takes():
    text = """
%cut (p: f32[8192,4096]) -> f32[4096,4096] {
  %p = f32[8192,4096]{1,0} parameter(0)
  ROOT %slice.1 = f32[4096,4096]{1,0} slice(%p), slice={[0:4096], [0:4096]}
}

ENTRY %main (a: f32[8192,4096]) -> f32[4096,4096] {
  %a = f32[8192,4096]{1,0} parameter(0)
  ROOT %fusion = f32[4096,4096]{1,0} fusion(%a), kind=kLoop, calls=%cut
}
"""
    assert Program(text).moved() == 2 * 4096 * 4096 * 4


def test_what_goes_to_the_host_and_back_is_counted_once_each_way():
    text = """
ENTRY %main (a: f32[8,1024]) -> f32[8,1024] {
  %a = f32[8,1024]{1,0} parameter(0)
  %stack = f32[4,8,1024]{2,1,0:S(5)} parameter(1)
  %at = s32[] parameter(2)
  %put = f32[4,8,1024]{2,1,0:S(5)} dynamic-update-slice(%stack, %a, %at, %at, %at)
  %got = f32[1,8,1024]{2,1,0} dynamic-slice(%put, %at, %at, %at), dynamic_slice_sizes={1,8,1024}
  ROOT %b = f32[8,1024]{1,0} bitcast(%got)
}
"""
    assert Program(text).carried() == 2 * 8 * 1024 * 4


def test_rings():
    gib = 2**30
    assert Collective("all-gather", 8, gib, 2).sent() == pytest.approx(2 * gib * 7 / 8)
    assert Collective("all-reduce", 4, gib, 1).sent() == pytest.approx(2 * gib * 3 / 4)


def seconds(target="a100x8", **work):
    idle = dict.fromkeys(("state", "donated", "peak", "limit", "flops", "attention_flops", "moved", "carried"), 0)
    step = CompiledStep(**{**idle, "collectives": [], "kernels": set(), "seconds": 0.0, **work})
    return estimate(CHIPS[TARGETS[target].chip], TARGETS[target], step)


def test_the_estimate_follows_the_slowest_of_arithmetic_communication_and_host():
    busy = seconds(flops=1e14).step
    assert busy == pytest.approx(1e14 / (312e12 * 0.75))
    assert seconds(flops=1e14, attention_flops=1e13).step - busy == pytest.approx(1e13 / (312e12 * 0.5))
    assert seconds(flops=1e14, moved=1e11).step - busy == pytest.approx(1e11 / (2.039e12 * 0.85))
    talking = seconds(flops=1e12, collectives=[Collective("all-gather", 8, 2**38, 1)])
    assert talking.step > talking.communication > 0.9 * talking.step
    assert seconds(flops=1e14, carried=1e12).step == pytest.approx(1e12 / (32e9 * 0.75) + 0.1 * busy)
    apart = seconds("h100x32", collectives=[Collective("all-gather", 32, 2**30, 1)])
    near = seconds("h100x32", collectives=[Collective("all-gather", 8, 2**30, 1)])
    assert apart.communication > 5 * near.communication


@pytest.mark.parametrize("name", TARGETS)
def test_targets_name_chips_that_are_known(name):
    target = TARGETS[name]
    if target.chip:
        assert CHIPS[target.chip].platform == target.platform
        assert 0.9 < memory_limit(CHIPS[target.chip]) / CHIPS[target.chip].memory < 1
        sizes = target.topology.split(":")[-1].split("x")
        assert target.devices == math.prod(map(int, sizes))
