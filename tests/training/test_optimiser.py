"""The recipe's schedule, and decay that spares norms and biases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alpaca_jax.model.definition import define
from alpaca_jax.training.config import default_config
from alpaca_jax.training.optimiser import batch_rules, learning_rate_schedule, make_optimiser, num_updates
from tests.models import SMALL


def test_the_published_run_has_its_updates_and_its_warm_up():
    config = default_config()
    config.train.batch_rows = 128
    updates = num_updates(config, rows=52_002)
    assert updates == 1_219  # 1,218 in the original, which leaves the last, smaller batch of an epoch out
    schedule = learning_rate_schedule(config, 1_218)
    assert float(schedule(0)) == 0.0
    assert float(schedule(37)) == pytest.approx(2e-5)  # ceil(3% of 1,218) updates of warm-up
    assert float(schedule(36)) < 2e-5
    assert float(schedule(37 + (1_218 - 37) / 2)) == pytest.approx(1e-5)
    assert float(schedule(1_218)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("name", "end"), [("linear", 0.0), ("constant", 2e-5)])
def test_other_schedules_end_where_they_say(name: str, end: float):
    config = default_config()
    config.optimizer.schedule = name
    schedule = learning_rate_schedule(config, 100)
    assert float(schedule(3)) == pytest.approx(2e-5)
    assert float(schedule(100)) == pytest.approx(end)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_each_update_has_the_learning_rate_that_transformers_gives_it(name: str):
    import torch
    from transformers import get_scheduler

    config = default_config()
    config.optimizer.schedule, config.optimizer.warmup_fraction = name, 0.08
    updates, warmup = 40, 4  # 8% of 40, rounded up
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.optimizer.learning_rate)
    scheduler = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        theirs,
        num_warmup_steps=warmup,
        num_training_steps=updates,
    )
    schedule = learning_rate_schedule(config, updates)
    for update in range(updates):
        assert float(schedule(update)) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5, abs=1e-12), update
        theirs.step()
        scheduler.step()


def test_the_rules_for_another_batch_are_told():
    config = default_config()
    config.train.batch_rows = 8
    update, learning_rate = batch_rules(config, 512, {"rows": 100, "kept": 400, "tokens": 50_000})
    assert update == "an update: 8 rows of 512 ≈ 32 examples (the original's: 128), 4,000 tokens"
    assert "scaled to this batch: 1e-05 by the square root, 5e-06 linearly" in learning_rate


def test_decay_and_clipping():
    config = default_config()
    config.optimizer.weight_decay = 0.1
    optimiser = make_optimiser(config, optax.constant_schedule(1.0))
    model = dataclasses.replace(SMALL, qkv_bias=True, output_bias=True, mlp_bias=True, qk_norm=True)
    parameters = jax.tree.map(lambda s: jnp.ones(s.shape), define(model).shapes)
    nothing = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = optimiser.update(nothing, optimiser.init(parameters), parameters)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path[-1].key
        assert name == "scale" or name.endswith("bias") or update.ndim > 1
        expected = 0.0 if name == "scale" or name.endswith("bias") else -0.1
        np.testing.assert_allclose(update, expected, rtol=1e-6)

    gradient = jax.tree.map(lambda p: 3.0 * p, parameters)
    _, state = optimiser.update(gradient, optimiser.init(parameters), parameters)
    moment = optax.tree.get(state, "mu")
    assert float(optax.tree.norm(moment)) == pytest.approx(0.1, rel=1e-4)  # (1 - b1) × a gradient clipped to norm 1
