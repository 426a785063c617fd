"""Properties of the model that hold for any weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.support.errors import UserError

SMALL = ModelConfig(
    vocab_size=100,  # not a multiple of 64, so that some rows of the embedding are padding
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    max_position_embeddings=128,
)


def tokens_of(key: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(jax.random.key(key), shape, 0, SMALL.vocab_size)


def two_segments() -> tuple[jax.Array, jax.Array]:
    """Positions and segment ids of a row of 24: a segment of 10, one of 11, padding."""
    positions = jnp.array([[*range(10), *range(11), 0, 0, 0]])
    segments = jnp.array([[1] * 10 + [2] * 11 + [0] * 3])
    return positions, segments


def hidden_of_two_segments() -> Callable[[jax.Array], jax.Array]:
    """Tokens of such a row to their hidden states, for fixed weights."""
    definition = define(SMALL)
    parameters = definition.initialise(0)
    positions, segments = two_segments()
    return jax.jit(lambda tokens: definition.bind(parameters)(tokens, positions, segments))


def test_a_segment_does_not_see_another():
    hidden, tokens = hidden_of_two_segments(), tokens_of(0, (1, 24))
    before = hidden(tokens)
    changed_first = hidden(tokens.at[0, 3].add(1))
    changed_second = hidden(tokens.at[0, 12].add(1))
    np.testing.assert_array_equal(before[0, 10:21], changed_first[0, 10:21])
    np.testing.assert_array_equal(before[0, :10], changed_second[0, :10])
    assert not np.array_equal(before[0, 3:10], changed_first[0, 3:10])


def test_a_token_does_not_see_a_later_one():
    hidden, tokens = hidden_of_two_segments(), tokens_of(0, (1, 24))
    before, after = hidden(tokens), hidden(tokens.at[0, 5].add(1))
    np.testing.assert_array_equal(before[0, :5], after[0, :5])


def test_a_packed_segment_is_what_it_is_alone():
    definition = define(SMALL)
    parameters = definition.initialise(0)
    model = definition.bind(parameters)
    positions, segments = two_segments()
    tokens = tokens_of(0, (1, 24))
    packed = model(tokens, positions, segments)[0, 10:21]
    alone = model(tokens[:, 10:21], jnp.arange(11)[None], jnp.ones((1, 11), jnp.int32))[0]
    np.testing.assert_allclose(packed, alone, atol=2e-5)


@pytest.mark.parametrize("cuts", [(40,), (13, 27), (1,) * 40])
def test_extending_a_cache_equals_the_whole_pass(cuts: tuple[int, ...]):
    definition = define(SMALL)
    model = definition.bind(definition.initialise(1))
    tokens = tokens_of(2, (2, 40))
    positions = jnp.broadcast_to(jnp.arange(40), (2, 40))
    whole = model(tokens, positions, jnp.ones((2, 40), jnp.int32))

    cache, parts, first = KVCache.empty(SMALL, 2, 64, jnp.float32), [], 0
    extend = jax.jit(lambda tokens, positions, cache: model.extend(tokens, positions, cache))
    for length in cuts:
        part = slice(first, first + length)
        hidden, cache = extend(tokens[:, part], positions[:, part], cache)
        parts.append(hidden)
        first += length
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5)


def test_padding_of_the_vocabulary_is_never_predicted():
    definition = define(SMALL)
    parameters = definition.initialise(0)
    logits = definition.bind(parameters).logits(jnp.ones((1, 2, 32)))
    assert logits.shape == (1, 2, 128)
    assert np.isneginf(logits[..., 100:]).all()
    assert np.isfinite(logits[..., :100]).all()


@pytest.mark.parametrize("tied", [False, True])
def test_the_number_of_parameters_is_counted(tied: bool):
    config = ModelConfig(**(SMALL.to_json() | {"vocab_size": 128, "tied_embeddings": tied}))
    definition = define(config)
    assert config.num_parameters == sum(shape.size for shape in jax.tree.leaves(definition.shapes))


def test_rematerialisation_changes_no_gradient():
    positions, segments = two_segments()
    tokens = tokens_of(0, (1, 24))
    gradients = []
    for policy in ("none", "dots", "full"):
        definition = define(SMALL, remat=policy)
        total = lambda p, d=definition: d.bind(p)(tokens, positions, segments).sum()  # noqa: E731
        gradients.append(jax.jit(jax.grad(total))(definition.initialise(0)))
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradients[0], other)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_kv_heads": 3}, "num_heads"), ({"head_dim": 7}, "head_dim"), ({"norm_eps": "1e-5"}, "norm_eps")],
)
def test_impossible_sizes_are_refused(change: dict, named: str):
    with pytest.raises(UserError, match=named):
        ModelConfig(**(SMALL.to_json() | change))


def test_a_description_survives_json_and_unknown_keys_do_not():
    assert ModelConfig.from_json(SMALL.to_json(), "here") == SMALL
    with pytest.raises(UserError, match="rope_scaling"):
        ModelConfig.from_json(SMALL.to_json() | {"rope_scaling": {}}, "here")
