"""Fused attention and context parallelism: the reference's values and gradients, and what compilers make of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model import attention_kernels
from alpaca_jax.model.attention_kernels import KEYS, QUERIES, REFERENCE, Kernel, attention_over, segment_places
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.chips import TARGETS
from alpaca_jax.parallel.mesh import batch_sharding, make_mesh, place_batch
from alpaca_jax.parallel.sharding import parameter_shardings, partition_spec
from alpaca_jax.planning.devices import describe
from alpaca_jax.planning.hlo import Program
from alpaca_jax.training.loss import summed_loss
from tests.models import SMALL

SPLASH = Kernel("splash", interpret=True)
MESH = {"fsdp": 2, "context": 2, "tensor": 2}
MODEL = dataclasses.replace(SMALL, vocab_size=96, max_position_embeddings=4096)
ROWS, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 2, 256, 4, 2, 8


def segments(rows: int = ROWS, length: int = LENGTH) -> np.ndarray:
    """Rows of a few segments each; all but the first end in padding."""
    random, ids = np.random.default_rng(0), np.zeros((rows, length), np.int32)
    for row in range(rows):
        bounds = np.sort(random.choice(length - 30, 4, replace=False))
        ids[row] = 1 + np.searchsorted(bounds, np.arange(length), "right")
        ids[row, length - 13 * row :] = 0
    return ids


def numbers() -> list[jax.Array]:
    """Queries, keys, values, and the gradient of the outputs."""
    random = np.random.default_rng(1)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    return [jnp.asarray(random.standard_normal((ROWS, LENGTH, h, HEAD_DIM)), jnp.float32) for h in heads]


def with_gradients(kernel: Kernel, window: int | None) -> Callable[..., Any]:
    def run(q: Any, k: Any, v: Any, gradient: Any, ids: Any) -> Any:
        values, backward = jax.vjp(attention_over(kernel, ids, window), q, k, v)
        return values, *backward(gradient)

    return jax.jit(run)


@pytest.mark.parametrize(
    ("kernel", "window", "mesh"),
    [(SPLASH, None, None), (SPLASH, 50, MESH), (REFERENCE, 50, MESH)],
    ids=["splash", "splash over a mesh", "reference over a mesh"],
)
def test_kernels_and_meshes_give_what_the_reference_gives(kernel, window, mesh):
    wanted = with_gradients(REFERENCE, window)(*numbers(), segments())
    if mesh is None:
        found = with_gradients(kernel, window)(*numbers(), segments())
    else:
        with jax.set_mesh(make_mesh(mesh)):
            found = with_gradients(kernel, window)(*numbers(), segments())
    for mine, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=5e-6)


def loss_and_gradient(kernel: Kernel) -> Any:
    definition = define(MODEL, "dots", kernel)
    return jax.jit(jax.value_and_grad(lambda parameters, rows: summed_loss(definition.bind(parameters), rows, 64)[0]))


def test_a_kernel_changes_nothing_within_the_model():
    parameters = jax.jit(define(MODEL).initialise, static_argnums=0)(0)
    tokens, targets = np.random.default_rng(2).integers(3, 96, (2, ROWS, LENGTH)).astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    rows = {"tokens": tokens, "targets": targets, "positions": positions}
    rows |= {"segment_ids": segments(), "loss_mask": segments() > 0}
    fused, mesh = loss_and_gradient(SPLASH), make_mesh(MESH)
    with jax.set_mesh(mesh):
        found = jax.device_get(fused(parameters, place_batch(mesh, rows)))
    wanted = loss_and_gradient(REFERENCE)(parameters, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, wanted)


def test_long_rows_take_a_quarter_of_the_memory_over_a_context_of_four(monkeypatch: pytest.MonkeyPatch):
    # Rows that lie whole are worked through in blocks, which save memory of their own.
    monkeypatch.setattr(attention_kernels, "_MOST_BLOCKS", 1)

    def temporaries(sizes: dict[str, int], devices: int) -> int:
        mesh = make_mesh(sizes, jax.devices()[:devices])
        definition, function = define(MODEL), loss_and_gradient(REFERENCE)
        lies = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
        parameters = jax.tree.map(
            lambda one, place: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place), definition.shapes, lies
        )
        rows = {
            name: jax.ShapeDtypeStruct((2, 4096), dtype, sharding=batch_sharding(mesh))
            for name, dtype in ROW_DTYPES.items()
        }
        with jax.set_mesh(mesh):
            program = function.lower(parameters, rows).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries({"fsdp": 2, "context": 4}, 8) < 0.26 * temporaries({"fsdp": 2}, 2)


def test_where_segments_lie():
    """The columns of `segment_places`."""
    starts, lengths = segment_places(jnp.array([[1, 1, 1, 2, 2, 0], [4, 5, 6, 7, 8, 9]]), 4)
    assert starts.tolist() == [[0, 3, 5, -1], [0, 1, 2, 3]]
    assert lengths.tolist() == [[3, 2, 1, -1], [1, 1, 1, 1]]
    starts, lengths = segment_places(jnp.array([[1, 2]]), 5)
    assert (starts.tolist(), lengths.tolist()) == ([[0, 1, -1, -1, -1]], [[1, 1, -1, -1, -1]])


def compiled(kernel: Kernel, target: str, length: int = 2048, **sizes: int) -> Any:
    """Attention of eight rows of a large model, forward and backward, for a target that is not here."""
    mesh = make_mesh(sizes, describe(TARGETS[target]))

    def shaped(heads: int, axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, partition_spec(axes))
        return jax.ShapeDtypeStruct((8, length, heads, 128), jnp.bfloat16, sharding=sharding)

    ids_lie = NamedSharding(mesh, partition_spec(("batch", "sequence")))
    ids = jax.ShapeDtypeStruct((8, length), jnp.int32, sharding=ids_lie)
    with jax.set_mesh(mesh):
        lowered = with_gradients(kernel, None).lower(
            shaped(32, QUERIES), shaped(8, KEYS), shaped(8, KEYS), shaped(32, QUERIES), ids
        )
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0})


def collectives_of(program: Any) -> set[str]:
    return {one.kind for one in Program(program.as_text()).collectives()}


def test_cudnn_compiles_for_a100_and_moves_nothing():
    program = compiled(Kernel("cudnn"), "a100x8", fsdp=4, tensor=2)
    calls = {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
    assert Program(program.as_text()).custom_calls() == calls
    assert '"mask_type": "CAUSAL"' in program.as_text()  # blocks above the diagonal are left out
    assert not collectives_of(program)
    # The scores of two rows and 16 heads alone would take 512 MiB.
    assert program.memory_analysis().temp_size_in_bytes < 2**26


def test_cudnn_over_context_gathers_keys_and_scatters_their_gradients():
    program = compiled(Kernel("cudnn"), "h100x8", fsdp=2, context=2, tensor=2)
    text = program.as_text()
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text
    gathered = [line for line in text.splitlines() if " all-gather" in line and "(%" in line and "-done" not in line]
    assert gathered
    # Of 4 rows: keys and values of 4 heads, and never queries, of which a device has 16.
    assert not any("[4,2048,16,128]" in line for line in gathered)
    assert "reduce-scatter" in text
    assert " all-to-all" not in text


def test_cudnns_packed_layout_compiles_for_h100(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks for the capability of a GPU that is here.
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    program = compiled(Kernel("cudnn_packed", most_segments=9), "h100x8", fsdp=4, tensor=2)
    assert Program(program.as_text()).custom_calls() == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert not collectives_of(program)
