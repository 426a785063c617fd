"""What is read off a compiled program, held against programs whose figures are known by hand."""

import dataclasses
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
from alpaca_jax.planning.groups import first_group
from alpaca_jax.planning.hlo import Collective, Program
from alpaca_jax.planning.links import placed

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


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,3},{1,2}}, to_apply=%add", (0, 3)),
        ("replica_groups=[1,8]<=[8], dimensions={0}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=[4,4]<=[8,2]T(1,0), dimensions={0}", (0, 2, 4, 6)),
        ("replica_groups=[8,2]<=[2,4,2]T(2,1,0), dimensions={0}", (0, 8)),
        ("replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=2] {'data','fsdp'}, x", (0, 2, 4, 6, 8, 10, 12, 14)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", (0, 2)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x", (0, 4)),
        ("source_target_pairs={{0,1},{1,2},{2,0},{3,4}}", (0, 1, 2)),
        ("to_apply=%add", ()),
    ],
)
def test_groups_in_every_way_of_writing(text: str, group: tuple[int, ...]):
    assert first_group(text) == group


def test_groups_in_an_unknown_way_are_not_passed_over():
    with pytest.raises(ValueError, match="not known"):
        first_group("replica_groups=<0,1>")


def test_what_a_tpu_sums_and_keeps_a_part_of_is_a_reduce_scatter():
    text = """
%all-reduce-scatter (a: bf16[128,32]) -> bf16[32,32] {
  %a = bf16[128,32]{1,0} parameter(0)
  %sum = bf16[128,32]{1,0} all-reduce(%a), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %place = u32[] partition-id()
  ROOT %part = bf16[32,32]{1,0} dynamic-slice(%sum, %place, %place), dynamic_slice_sizes={32,32}
}

ENTRY %main (a: bf16[128,32]) -> bf16[32,32] {
  %a = bf16[128,32]{1,0} parameter(0)
  ROOT %fusion = bf16[32,32]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter
}
"""
    (found,) = Program(text).collectives()
    assert (found.kind, found.devices, found.bytes) == ("reduce-scatter", 4, 128 * 32 * 2)


def test_a_message_between_slices_is_a_collective_of_theirs():
    text = """
ENTRY %main (a: bf16[24,128]) -> bf16[24,128] {
  %a = bf16[24,128]{1,0} parameter(0)
  %begin = token[] after-all()
  %all = bf16[96,128]{1,0} all-gather(%a), channel_id=2, replica_groups={{0,1,2,3}}, dimensions={0}
  %send = (bf16[24,128]{1,0}, u32[], token[]) send(%a, %begin), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %b = bf16[24,128]{1,0} bitcast(%a)
}
"""  # noqa: E501
    inside, between = Program(text).collectives()
    assert (inside.kind, inside.machines) == ("all-gather", 1)
    assert (between.kind, between.devices, between.machines) == ("all-reduce", 3, 3)
    assert between.sent_between() == pytest.approx(2 * 2 / 3 * 24 * 128 * 2)


def test_a_loop_that_counts_in_steps_and_one_that_is_peeled():
    body = """
  %p = (u32[], f32[8]) parameter(0)
  %i = u32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
"""
    text = f"""
%turn (p: (u32[], f32[8])) -> (u32[], f32[8]) {{{body}
  %one = u32[] constant(1)
  %next = u32[] add(%i, %one)
  %after = u32[] add(%next, %one)
  %y = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add
  ROOT %t = (u32[], f32[8]) tuple(%after, %y)
}}

%until (p: (u32[], f32[8])) -> pred[] {{{body}
  %end = u32[] constant(8)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}}

ENTRY %main (p: (u32[], f32[8])) -> f32[8] {{
  %p = (u32[], f32[8]) parameter(0)
  %loop = (u32[], f32[8]) while(%p), condition=%until, body=%turn
  %x = f32[8]{{0}} get-tuple-element(%loop), index=1
  ROOT %last = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add
}}
"""
    assert [one.times for one in Program(text, open_loops=100).collectives()] == [4, 1]


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a described device as tells where it is."""

    process_index: int = 0
    slice_index: int = 0
    coords: tuple[int, ...] = (0, 0, 0)


def test_where_a_group_lies():
    gpus = [Device(process_index=number // 8) for number in range(32)]
    groups = [tuple(range(0, 32, 4)), (0, 1, 2, 3), (0, 8)]
    found = placed([Collective("all-gather", 8, 1, 1, group) for group in groups], gpus, TARGETS["h100x32"])
    assert [one.machines for one in found] == [4, 1, 2]
    tpus = [Device(coords=(x, y, z)) for x in range(4) for y in range(4) for z in range(4)]
    groups = [(0, 1), (0, 1, 4, 5), (0, 16, 1, 4), ()]
    found = placed([Collective("all-gather", 4, 1, 1, group) for group in groups], tpus, TARGETS["tpu_v5p_64"])
    assert [(one.machines, one.links) for one in found] == [(1, 1 / 3), (1, 2 / 3), (1, 1.0), (1, 1.0)]


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


def test_a_machine_fetches_from_the_others_once_and_shares():
    size, rate = 2**30, 0.75

    def taken(kind: str, devices: int, machines: int, links: float = 1.0, target="h100x32") -> float:
        return seconds(target, collectives=[Collective(kind, devices, size, 1, (), machines, links)]).communication

    near = taken("all-gather", 32, 1)
    assert near == pytest.approx(size * 31 / 32 / (450e9 * rate))
    # Eight network cards of 50 GB/s bring in what eight GPUs want.
    assert taken("all-gather", 32, 4) == pytest.approx(max(near, size * 3 / 4 / 8 / (50e9 * rate)))
    assert taken("all-gather", 4, 4) == pytest.approx(size * 3 / 4 / (50e9 * rate))
    assert taken("all-reduce", 4, 4) == pytest.approx(2 * size * 3 / 4 / (50e9 * rate))
    assert taken("all-to-all", 32, 4) == pytest.approx(size * 3 / 4 / (50e9 * rate))
    assert taken("all-gather", 2, 1, 1 / 3, "tpu_v5p_64") == pytest.approx(size / 2 / (100e9 * rate))


@pytest.mark.parametrize("name", TARGETS)
def test_targets_name_chips_that_are_known(name):
    target = TARGETS[name]
    if target.chip:
        assert CHIPS[target.chip].platform == target.platform
        assert 0.9 < memory_limit(CHIPS[target.chip]) / CHIPS[target.chip].memory < 1
        sizes = target.topology.split(":")[-1].split("x")
        assert target.devices == math.prod(map(int, sizes))
