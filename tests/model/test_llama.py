"""Properties of the model that hold for any weights."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.model.attention import visible
from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.model.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings
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


# Every feature of the family at once; the window is shorter than the segments below.
EVERYTHING = dataclasses.replace(
    SMALL,
    rope_scaling=YarnScaling(4.0, original_max_position_embeddings=16, attention_factor=1.2),
    sliding_window=7,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    qk_norm=True,
)


def random_parameters(config: ModelConfig) -> dict:
    """Norms and biases that are random too."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s.shape) * SMALL.hidden_size**-0.5, jnp.float32),
        define(config).shapes,
    )


def tokens_of(key: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(jax.random.key(key), shape, 0, SMALL.vocab_size)


def two_segments() -> tuple[jax.Array, jax.Array]:
    """Positions and segment ids of a row of 24: a segment of 10, one of 11, padding."""
    positions = jnp.array([[*range(10), *range(11), 0, 0, 0]])
    segments = jnp.array([[1] * 10 + [2] * 11 + [0] * 3])
    return positions, segments


def hidden_of_two_segments(config: ModelConfig = SMALL) -> Callable[[jax.Array], jax.Array]:
    """Tokens of such a row to their hidden states, for fixed weights."""
    definition = define(config)
    parameters = random_parameters(config)
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


def test_a_token_sees_as_far_back_as_the_window():
    model = dataclasses.replace(SMALL, num_layers=1, sliding_window=4)  # further layers would reach further
    hidden, tokens = hidden_of_two_segments(model), tokens_of(0, (1, 24))
    before, after = hidden(tokens), hidden(tokens.at[0, 12].add(1))
    changed = np.flatnonzero((before != after).any(axis=(0, 2)))
    assert changed.tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize(
    ("query", "window", "segments", "seen"),
    [(3, 2, [1, 1, 1, 1, 1], "..xx."), (3, None, [1, 1, 2, 2, 2], "..xx."), (3, None, [1, 1, 1, 1, 1], "xxxx.")],
)
def test_what_a_query_sees(query: int, window: int | None, segments: list[int], seen: str):
    keys, segments_BL = jnp.arange(5)[None], jnp.array([segments])
    mask = visible(keys, keys, window, (segments_BL, segments_BL))
    assert "".join("x" if one else "." for one in mask[0, query]) == seen


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["plain", "everything"])
def test_a_packed_segment_is_what_it_is_alone(config: ModelConfig):
    definition = define(config)
    parameters = random_parameters(config)

    @jax.jit
    def hidden(tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
        return definition.bind(parameters)(tokens, positions, segments)

    positions, segments = two_segments()
    tokens = tokens_of(0, (1, 24))
    packed = hidden(tokens, positions, segments)[0, 10:21]
    alone = hidden(tokens[:, 10:21], jnp.arange(11)[None], jnp.ones((1, 11), jnp.int32))[0]
    np.testing.assert_allclose(packed, alone, atol=2e-5)


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("cuts", [(40,), (13, 27), (1,) * 40])
def test_extending_a_cache_equals_the_whole_pass(cuts: tuple[int, ...], config: ModelConfig):
    definition = define(config)
    model = definition.bind(random_parameters(config))
    tokens = tokens_of(2, (2, 40))
    positions = jnp.broadcast_to(jnp.arange(40), (2, 40))
    whole = model(tokens, positions, jnp.ones((2, 40), jnp.int32))

    cache, parts, first = KVCache.empty(config, 2, 64, jnp.float32), [], 0
    extend = jax.jit(lambda tokens, positions, cache: model.extend(tokens, positions, cache))
    for length in cuts:
        part = slice(first, first + length)
        hidden, cache = extend(tokens[:, part], positions[:, part], cache)
        parts.append(hidden)
        first += length
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5)


def test_padding_of_the_vocabulary_is_never_predicted():
    definition = define(SMALL)
    logits = definition.bind(random_parameters(SMALL)).logits(jnp.ones((1, 2, 32)))
    assert logits.shape == (1, 2, 128)
    assert np.isneginf(logits[..., 100:]).all()
    assert np.isfinite(logits[..., :100]).all()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["plain", "everything"])
def test_the_number_of_parameters_is_counted(config: ModelConfig, tied: bool):
    config = dataclasses.replace(config, vocab_size=128, tied_embeddings=tied)
    definition = define(config)
    assert config.num_parameters == sum(shape.size for shape in jax.tree.leaves(definition.shapes))


def test_every_feature_is_split_over_a_mesh_and_gives_the_same():
    definition = define(EVERYTHING)
    parameters, (positions, segments), tokens = random_parameters(EVERYTHING), two_segments(), tokens_of(0, (1, 24))
    hidden = jax.jit(lambda p: definition.bind(p)(tokens, positions, segments))
    mesh = make_mesh({"data": 1, "fsdp": 1, "context": 1, "tensor": 2}, devices=jax.devices()[:2])
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    split = jax.device_put(parameters, shardings)
    bias = split["layers"]["attention"]["key_bias"]
    assert bias.addressable_shards[0].data.shape == (3, 1, 6)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(hidden(split), hidden(parameters), atol=1e-5)


def test_rematerialisation_changes_no_gradient():
    positions, segments = two_segments()
    tokens = tokens_of(0, (1, 24))
    gradients = []
    for policy in ("none", "dots", "full"):
        definition = define(SMALL, remat=policy)
        total = lambda p, d=definition: d.bind(p)(tokens, positions, segments).sum()  # noqa: E731
        gradients.append(jax.jit(jax.grad(total))(random_parameters(SMALL)))
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradients[0], other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_kv_heads": 3}, "num_heads"),
        ({"head_dim": 7}, "head_dim: expected an even number"),
        ({"norm_eps": "1e-5"}, "norm_eps: expected a positive float"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"sliding_window": 0}, "sliding_window: expected a positive int or none; found 0"),
        ({"qk_norm": 1}, "qk_norm: expected true or false"),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0}}, "rope_scaling: expected LinearScaling or"),
    ],
)
def test_impossible_sizes_are_refused(change: dict, named: str):
    with pytest.raises(UserError, match=named):
        dataclasses.replace(SMALL, **change)


_SCALINGS = [
    None,
    LinearScaling(2.0),
    Llama3Scaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192),
    YarnScaling(4.0, original_max_position_embeddings=4096, attention_factor=1.1, truncate=False),
]


@pytest.mark.parametrize("scaling", _SCALINGS)
def test_a_description_survives_json(scaling: RopeScaling | None):
    config = dataclasses.replace(EVERYTHING, rope_scaling=scaling)
    value = json.loads(json.dumps(config.to_json()))
    assert ModelConfig.from_json(value, "here") == config


def test_a_description_from_before_the_family_is_a_plain_llama():
    value = SMALL.to_json()
    for name in ("rope_scaling", "sliding_window", "qkv_bias", "output_bias", "mlp_bias", "qk_norm"):
        del value[name]
    assert ModelConfig.from_json(value, "here") == SMALL


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"experts": 8}, r"unknown \['experts'\]"),
        ({"rope_scaling": {}}, "here, rope_scaling: expected an object whose kind is linear, llama3, yarn"),
        ({"rope_scaling": {"kind": ["linear"]}}, "rope_scaling"),
        ({"rope_scaling": {"kind": "linear"}}, r"missing \['factor'\]"),
        ({"rope_scaling": {"kind": "linear", "factor": 2}}, "rope_scaling.factor: expected a positive float"),
    ],
)
def test_a_description_with_other_keys_is_refused(change: dict, named: str):
    with pytest.raises(UserError, match=named):
        ModelConfig.from_json(SMALL.to_json() | change, "here")


def test_a_missing_size_is_refused():
    value = SMALL.to_json()
    del value["rope_theta"]
    with pytest.raises(UserError, match="rope_theta"):
        ModelConfig.from_json(value, "here")


def test_differences_name_what_differs():
    differences = EVERYTHING.differences(SMALL)
    assert "sliding_window: 7 ≠ None" in differences
    assert len(differences) == 6
