"""The train step: the same on every mesh, in any number of microbatches, however the examples are packed."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import MESH_AXES, make_mesh, place_batch
from alpaca_jax.training.config import default_config
from alpaca_jax.training.gradients import split_microbatches
from alpaca_jax.training.loss import summed_loss
from alpaca_jax.training.optimiser import make_optimiser
from alpaca_jax.training.state import TrainState, abstract_state, new_state, state_shardings
from alpaca_jax.training.step import train_step
from tests.models import SMALL

MODEL = dataclasses.replace(SMALL, vocab_size=96)
# Of the segments in each of 16 rows of 16.
LENGTHS = [(5, 9), (14,), (7, 3, 4), (12,), (2, 11), (6, 6), (13,), (4, 9)] * 2


def examples() -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """For each row, its examples: tokens (one more than its places) and which targets are trained."""
    random = np.random.default_rng(0)
    return [[(random.integers(3, 96, n + 1), np.arange(n) >= n // 3) for n in row] for row in LENGTHS]


def packed(rows: list[list[tuple[np.ndarray, np.ndarray]]], length: int = 16) -> dict[str, np.ndarray]:
    """The rows' examples laid out by hand, not by the code under test elsewhere."""
    batch = {name: np.zeros((len(rows), length), dtype) for name, dtype in ROW_DTYPES.items()}
    for row, segments in enumerate(rows):
        first = 0
        for number, (tokens, mask) in enumerate(segments, start=1):
            places = slice(first, first + len(mask))
            batch["tokens"][row, places], batch["targets"][row, places] = tokens[:-1], tokens[1:]
            batch["loss_mask"][row, places], batch["segment_ids"][row, places] = mask, number
            batch["positions"][row, places] = np.arange(len(mask))
            first += len(mask)
    return batch


def config_of(**changes: object):
    config = default_config()
    config.model.compute_dtype = "float32"
    config.optimizer.learning_rate = 1e-2
    # Where a gradient is nearly zero, Adam divides rounding by rounding; a larger eps keeps that out of the comparison.
    config.optimizer.eps = 1e-3
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


@dataclasses.dataclass(frozen=True)
class Step:
    """A train step for a mesh, compiled once for all the tests that take it, and the state that it begins with."""

    mesh: jax.sharding.Mesh
    start: TrainState
    abstract: TrainState
    update: Callable


@functools.cache
def step_for(mesh_sizes, model=MODEL, **changes: object) -> Step:
    config = config_of(**changes)
    definition = define(model, remat=config.model.remat)
    sizes = dict(zip(MESH_AXES, mesh_sizes, strict=True))
    mesh = make_mesh(sizes, jax.devices()[: math.prod(mesh_sizes)])
    optimiser = make_optimiser(config, optax.constant_schedule(config.optimizer.learning_rate))
    shardings = state_shardings(definition, optimiser, mesh)
    dtype = config.model.parameter_dtype
    start = new_state(definition, optimiser, shardings, 0, dtype)
    update = jax.jit(
        functools.partial(train_step, definition, optimiser, config),
        out_shardings=(shardings, None),
        compiler_options={"xla_backend_optimization_level": 0},  # compiles in half the time
    )
    return Step(mesh, start, abstract_state(definition, optimiser, shardings, dtype), update)


def go_on(step: Step, state: TrainState, batch: dict[str, np.ndarray], steps: int):
    """The state after some more updates on one batch, the losses on the way, and the last update's metrics."""
    losses = []
    with jax.set_mesh(step.mesh):
        for _ in range(steps):
            state, metrics = step.update(state, place_batch(step.mesh, batch))
            losses.append(float(metrics["loss"]))
    return state, losses, {name: float(value) for name, value in metrics.items()}


def run_steps(batch: dict[str, np.ndarray], mesh_sizes=(1, 4, 1, 2), steps: int = 5, model=MODEL, **changes: object):
    """The losses, the last parameters and the last metrics of some steps on one batch."""
    step = step_for(mesh_sizes, model, **changes)
    state, losses, metrics = go_on(step, step.start, batch, steps)
    assert int(state.step) == steps
    return losses, jax.device_get(state.parameters), metrics


@pytest.fixture(scope="module")
def reference():
    """One device, one microbatch."""
    return run_steps(packed(examples()), mesh_sizes=(1, 1, 1, 1))


def assert_same(mine, reference):
    """To 1e-5 of each loss, and of each parameter or of their usual size, 0.2, where one is smaller."""
    np.testing.assert_allclose(mine[0], reference[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), mine[1], reference[1])


@pytest.mark.parametrize(
    ("mesh_sizes", "microbatches"),
    [((1, 8, 1, 1), 2), ((1, 4, 1, 2), 4), ((1, 2, 2, 2), 1), ((2, 1, 4, 1), 2)],
)
def test_neither_mesh_nor_microbatches_change_anything(mesh_sizes, microbatches, reference):
    assert_same(run_steps(packed(examples()), mesh_sizes, train__microbatches=microbatches), reference)


def test_the_mesh_changes_nothing_for_a_model_with_every_feature():
    features = {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "qk_norm": True}
    model = dataclasses.replace(MODEL, sliding_window=3, **features)
    one = run_steps(packed(examples()), (1, 1, 1, 1), model=model)
    other = run_steps(packed(examples()), (1, 2, 2, 2), model=model, train__microbatches=2)
    assert_same(one, other)
    biases = one[1]["layers"]["attention"]["query_bias"], one[1]["layers"]["mlp"]["down_bias"]
    assert all(bias.any() for bias in biases)  # they began as 0
    assert one[2]["attended"] == sum(min(i, 3) for row in LENGTHS for n in row for i in range(1, n + 1))


def test_chunks_of_the_head_change_nothing(reference):
    assert_same(run_steps(packed(examples()), model__loss_chunk=5), reference)


def test_packing_changes_nothing(reference):
    apart = [[example] for row in examples() for example in row]
    apart += [[]] * (-len(apart) % 8)
    assert_same(run_steps(packed(apart)), reference)


def test_counts_and_loss_are_those_of_the_definition(reference):
    batch = packed(examples())
    definition = define(MODEL)
    model = definition.bind(definition.initialise(0))
    hidden = model(*(jnp.asarray(batch[name]) for name in ("tokens", "positions", "segment_ids")))
    logits = np.asarray(model.logits(hidden), np.float64)[..., : MODEL.vocab_size]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    by_hand = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0][batch["loss_mask"]].mean()
    np.testing.assert_allclose(reference[0][0], by_hand, rtol=1e-5)
    assert reference[2]["target_tokens"] == batch["loss_mask"].sum()
    assert reference[2]["tokens"] == sum(map(sum, LENGTHS))
    assert reference[2]["attended"] == sum(n * (n + 1) // 2 for row in LENGTHS for n in row)


def test_the_gradient_is_that_of_the_mean_over_trained_tokens():
    batch = packed(examples())
    definition = define(MODEL)
    parameters = jax.jit(definition.initialise, static_argnums=0)(0)
    arrays = jax.tree.map(jnp.asarray, batch)
    total = jax.jit(jax.grad(lambda p: summed_loss(definition.bind(p), arrays, 512)[0]))(parameters)
    by_hand = float(optax.tree.norm(total)) / batch["loss_mask"].sum()
    for mesh_sizes, microbatches in (((1, 2, 2, 2), 1), ((1, 8, 1, 1), 2)):
        _, _, metrics = run_steps(batch, mesh_sizes, steps=1, train__microbatches=microbatches)
        np.testing.assert_allclose(metrics["grad_norm"], by_hand, rtol=1e-5)


def test_a_segment_adds_to_the_gradient_only_what_it_adds_alone():
    """Changing one packed example changes the summed gradient by the difference of its own gradients, and no more."""
    definition = define(MODEL)
    parameters = definition.initialise(0)
    gradient = jax.jit(jax.grad(lambda p, batch: summed_loss(definition.bind(p), batch, 512)[0]))
    row, other = examples()[2], examples()[4][1]
    changed = [row[0], (other[0][:4], row[1][1]), row[2]]
    packed_difference = jax.tree.map(
        jnp.subtract, gradient(parameters, packed([changed])), gradient(parameters, packed([row]))
    )
    alone_difference = jax.tree.map(
        jnp.subtract, gradient(parameters, packed([[changed[1]]])), gradient(parameters, packed([[row[1]]]))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), packed_difference, alone_difference)


def test_a_batch_without_targets_changes_no_weight():
    batch = packed(examples())
    batch["loss_mask"][:] = False
    losses, parameters, metrics = run_steps(batch, steps=1)
    start = jax.jit(define(MODEL).initialise, static_argnums=0)(0)
    assert losses == [0.0]
    assert metrics["grad_norm"] == 0.0
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), parameters, jax.device_get(start))


def test_bfloat16_arithmetic_keeps_float32_weights_that_feel_small_updates():
    _, parameters, _ = run_steps(
        packed(examples()), steps=1, model__compute_dtype="bfloat16", optimizer__learning_rate=1e-5, optimizer__eps=1e-8
    )
    scale = parameters["final_norm"]["scale"]
    assert scale.dtype == np.float32
    assert (scale != 1.0).all()  # a step of 1e-5 from 1.0, which bfloat16 would swallow
    np.testing.assert_allclose(np.abs(scale - 1.0), 1e-5, rtol=0.02)


def test_microbatches_take_every_row_once():
    rows = np.arange(12).reshape(12, 1)
    split = np.asarray(split_microbatches({"tokens": rows}, 3)["tokens"])
    assert split.shape == (3, 4, 1)
    assert sorted(split.ravel()) == list(range(12))


def test_arithmetic_runs_in_the_type_asked_for(reference):
    losses, _, _ = run_steps(packed(examples()), model__compute_dtype="bfloat16")
    assert losses != reference[0]
    np.testing.assert_allclose(losses, reference[0], rtol=0.02)


def test_products_are_of_the_precision_asked_for(reference):
    rounded = {"model__matmul_precision": "BF16_BF16_F32"}
    losses, _, _ = run_steps(packed(examples()), **rounded)
    assert losses != reference[0]
    np.testing.assert_allclose(losses, reference[0], rtol=0.01)
    step = step_for((1, 4, 1, 2), **rounded)
    with jax.set_mesh(step.mesh):
        traced = step.update.trace(step.start, place_batch(step.mesh, packed(examples())))
    products = list(products_in(traced.jaxpr.jaxpr))
    assert len(products) > 20
    assert {str(factor.aval.dtype) for product in products for factor in product.invars} == {"bfloat16"}
    assert {str(product.outvars[0].aval.dtype) for product in products} == {"float32"}


def products_in(program: Any) -> Iterator[Any]:
    """Every matrix product of a traced program, those of its loops and inner functions among them."""
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products_in(inner)


def test_what_the_backward_pass_keeps_on_the_host_changes_nothing(reference):
    assert_same(run_steps(packed(examples()), (1, 2, 2, 2), model__remat="offload"), reference)


LOW = {"model__parameter_dtype": "bfloat16", "optimizer__first_moment_dtype": "bfloat16"}


def test_in_low_precision_the_mesh_decides_only_where_rounding_was_close():
    """The noise is the same on every mesh; sums in another order tip over only what lay next to the edge."""
    batch, other_mesh = packed(examples()), {"mesh_sizes": (1, 2, 2, 2), "train__microbatches": 2}
    np.testing.assert_allclose(run_steps(batch, **LOW)[0], run_steps(batch, **other_mesh, **LOW)[0], rtol=1e-3)
    one, other = run_steps(batch, steps=1, **LOW), run_steps(batch, steps=1, **other_mesh, **LOW)
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(*map(jax.tree.leaves, (one[1], other[1])), strict=True)]
    mine, others = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    assert mine.dtype == jnp.bfloat16
    assert (mine == others).mean() > 0.995


def test_in_low_precision_a_run_goes_on_bit_for_bit(tmp_path: Path):
    step = step_for((1, 4, 1, 2), **LOW)
    batch = packed(examples())
    half, _, _ = go_on(step, step.start, batch, 2)
    undisturbed, _, _ = go_on(step, half, batch, 2)
    (tmp_path / "checkpoints").mkdir()
    with Store(tmp_path / "checkpoints") as store:
        store.save(2, half.parameters, half.optimiser, {"step": 2})
    with Store(tmp_path / "checkpoints") as store:
        parameters, moments, _ = store.restore(2, step.abstract.parameters, step.abstract.optimiser)
    restored, _, _ = go_on(step, TrainState(half.step, parameters, moments), batch, 2)
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (restored, undisturbed)))
    types = {leaf.dtype.name for leaf in jax.tree.leaves(restored.optimiser)}
    assert types == {"bfloat16", "float32", "int32"}  # the mean of the gradients, of their squares, the counts


def test_moments_lie_where_their_parameters_do():
    definition = define(MODEL)
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    optimiser = make_optimiser(config_of(), optax.constant_schedule(1e-3))
    shardings = state_shardings(definition, optimiser, mesh)
    for name in ("mu", "nu"):
        assert optax.tree.get(shardings.optimiser, name) == shardings.parameters
    state = new_state(definition, optimiser, shardings, seed=0)
    jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or pytest.fail(str(leaf)), state, shardings)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_update_that_is_not_finite_leaves_the_state_as_it_was(bad: float):
    """The embedding of one token is not finite: a batch that holds it is skipped, the next one trains."""
    step = step_for((1, 4, 1, 2))
    embedding = step.start.parameters["embedding"].at[7].set(bad)
    start = dataclasses.replace(step.start, parameters=step.start.parameters | {"embedding": embedding})
    batch = packed(examples())
    with_it = batch | {"tokens": np.where(batch["segment_ids"] > 0, 7, 0).astype(np.int32)}
    without = batch | {"tokens": np.where(batch["tokens"] == 7, 8, batch["tokens"])}

    skipped, metrics = step.update(start, place_batch(step.mesh, with_it))
    assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
    jax.tree.map(np.testing.assert_array_equal, skipped.parameters, start.parameters)
    jax.tree.map(np.testing.assert_array_equal, skipped.optimiser, start.optimiser)
    assert skipped.step == start.step + 1

    trained, metrics = step.update(skipped, place_batch(step.mesh, without))
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])
    assert (trained.parameters["final_norm"]["scale"] != start.parameters["final_norm"]["scale"]).any()
