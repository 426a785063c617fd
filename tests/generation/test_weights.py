"""Weights in the forms that answer fastest: layers apart, and matrices in eight bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.weights import form_of, quantise_all, separate_layers
from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.definition import define
from alpaca_jax.model.quantised import Quantised, quantise
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings

PROMPTS = [[5, 9, 11], list(range(100, 140))]
GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


def copy_of(parameters, definition, mesh=None):
    if mesh is None:
        return jax.tree.map(jnp.copy, parameters)
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    return jax.device_put(jax.tree.map(np.array, parameters), shardings, may_alias=False)


def answers(definition, parameters, engine, mesh=None):
    other = Engine(definition, parameters, engine.tokenizer, engine.template, mesh, slots=4)
    return Generator(other).continuations(PROMPTS, GREEDY)


@pytest.mark.parametrize("change", [separate_layers, quantise_all])
def test_a_mesh_changes_nothing_and_no_second_copy_is_left(definition, parameters, engine, change):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    split = copy_of(parameters, definition, mesh)
    given = jax.tree.leaves(split["layers"]["mlp"])
    changed, here = change(split, definition), change(copy_of(parameters, definition), definition)
    assert all(leaf.is_deleted() for leaf in given)
    assert form_of(changed) == form_of(here) == (jnp.float32, change is quantise_all)
    gate = jax.tree.leaves(changed["layers"]["mlp"]["gate"])[0]
    assert gate.addressable_shards[0].data.size == gate.size / 4
    expected = answers(definition, here, engine)
    assert answers(definition, changed, engine, mesh) == expected
    if change is separate_layers:
        assert expected == Generator(engine).continuations(PROMPTS, GREEDY)


def test_eight_bits_are_the_nearest_of_each_channel():
    weight = jax.random.normal(jax.random.key(0), (3, 16, 4, 8)) * jnp.array([1.0, 100.0, 0.01, 0.0])[:, None]
    made = quantise(weight, ("layers", "embed", "heads", "head_dim"), "float32")
    assert made.values.dtype == jnp.int8
    assert made.factors.shape == (3, 1, 4, 8)
    assert np.abs(np.asarray(made.values)).max(axis=1)[:, :3].min() == 127
    widened = made.gathered(("norm", "norm", "norm", "norm"), jnp.float32)
    assert (jnp.abs(widened - weight) <= made.factors * 0.5001).all()
    assert (widened[:, :, 3] == 0).all()


@pytest.mark.parametrize("tied", [False, True])
def test_eight_bits_give_nearly_the_same_scores(definition, parameters, tied):
    if tied:
        definition = define(dataclasses.replace(definition.config, tied_embeddings=True))
        parameters = definition.initialise(4)
    tokens_1L = jnp.arange(40, 70)[None]

    def scores(parameters):
        model = definition.bind(parameters)
        cache = KVCache.empty(definition.config, 1, 32, jnp.float32)
        hidden, _ = model.extend(tokens_1L, jnp.arange(30)[None], cache)
        return model.logits(hidden)

    exact = jax.jit(scores)(parameters)
    quantised = quantise_all(copy_of(parameters, definition), definition)
    held = jax.tree.leaves(quantised, is_leaf=lambda leaf: isinstance(leaf, Quantised))
    assert sum(isinstance(leaf, Quantised) for leaf in held) == 8 + (not tied)
    error = jnp.linalg.norm(jax.jit(scores)(quantised) - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.03
