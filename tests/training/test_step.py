"""The train step: the same on every mesh, in any number of microbatches, however the examples are packed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import MESH_AXES, make_mesh, place_batch
from alpaca_jax.training.config import default_config
from alpaca_jax.training.loss import summed_loss
from alpaca_jax.training.optimiser import make_optimiser
from alpaca_jax.training.state import new_state, state_shardings
from alpaca_jax.training.step import split_microbatches, train_step
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


def run_steps(batch: dict[str, np.ndarray], mesh_sizes=(1, 4, 1, 2), steps: int = 3, model=MODEL, **changes: object):
    """The losses and the last parameters of some steps on one batch."""
    config, definition = config_of(**changes), define(model, remat="dots")
    mesh = make_mesh(dict(zip(MESH_AXES, mesh_sizes, strict=True)))
    optimiser = make_optimiser(config, optax.constant_schedule(config.optimizer.learning_rate))
    shardings = state_shardings(definition, optimiser, mesh)
    state = new_state(definition, optimiser, shardings, seed=0)
    step = jax.jit(functools.partial(train_step, definition, optimiser, config), out_shardings=(shardings, None))
    losses = []
    with jax.set_mesh(mesh):
        for _ in range(steps):
            state, metrics = step(state, place_batch(mesh, batch))
            losses.append(float(metrics["loss"]))
    assert int(state.step) == steps
    return losses, jax.device_get(state.parameters), {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def reference():
    return run_steps(packed(examples()), mesh_sizes=(8, 1, 1, 1))


def assert_same(mine, reference, rtol: float = 1e-5):
    np.testing.assert_allclose(mine[0], reference[0], rtol=rtol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), mine[1], reference[1])


@pytest.mark.parametrize("mesh_sizes", [(1, 8, 1, 1), (1, 4, 1, 2), (2, 2, 1, 2), (1, 2, 2, 2), (2, 1, 4, 1)])
def test_the_mesh_changes_nothing(mesh_sizes, reference):
    assert_same(run_steps(packed(examples()), mesh_sizes), reference)


def test_the_mesh_changes_nothing_for_a_model_with_every_feature():
    features = {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "qk_norm": True}
    model = dataclasses.replace(MODEL, sliding_window=3, **features)
    one, other = (run_steps(packed(examples()), sizes, model=model) for sizes in ((8, 1, 1, 1), (1, 2, 2, 2)))
    assert_same(one, other)
    biases = one[1]["layers"]["attention"]["query_bias"], one[1]["layers"]["mlp"]["down_bias"]
    assert all(bias.any() for bias in biases)  # they began as 0
    assert one[2]["attended"] == sum(min(i, 3) for row in LENGTHS for n in row for i in range(1, n + 1))


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_change_nothing(microbatches, reference):
    assert_same(run_steps(packed(examples()), train__microbatches=microbatches), reference)


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
    total = jax.grad(lambda p: summed_loss(definition.bind(p), arrays, 512)[0])(parameters)
    by_hand = float(optax.tree.norm(total)) / batch["loss_mask"].sum()
    for microbatches in (1, 2):
        _, _, metrics = run_steps(batch, steps=1, train__microbatches=microbatches)
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


def test_moments_lie_where_their_parameters_do():
    definition = define(MODEL)
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    optimiser = make_optimiser(config_of(), optax.constant_schedule(1e-3))
    shardings = state_shardings(definition, optimiser, mesh)
    for name in ("mu", "nu"):
        assert optax.tree.get(shardings.optimiser, name) == shardings.parameters
    state = new_state(definition, optimiser, shardings, seed=0)
    jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or pytest.fail(str(leaf)), state, shardings)
