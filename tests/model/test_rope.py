"""Rotary frequencies are transformers', for the models that people have and for random ones."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from alpaca_jax.convert.huggingface_rope import write_rope
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.presets import PRESETS
from alpaca_jax.model.rope import rope_frequencies
from alpaca_jax.model.rope_scaling import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling


def theirs(model: ModelConfig) -> tuple[np.ndarray, float]:
    """transformers' frequencies, and what it multiplies sine and cosine by."""
    config = transformers.LlamaConfig(
        hidden_size=model.head_dim,
        num_attention_heads=1,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        **write_rope(model),
    )
    kind = config.rope_parameters["rope_type"]
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    compute = rotary.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    frequencies, factor = compute(config)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("name", PRESETS)
def test_frequencies_of_published_models(name: str):
    frequencies_q, _ = theirs(PRESETS[name])
    # The last bit of one in 64 differs for θ = 10⁶, where torch's power is not the nearest number.
    np.testing.assert_array_max_ulp(rope_frequencies(PRESETS[name]), frequencies_q, maxulp=1)
    assert (rope_frequencies(PRESETS[name]) != frequencies_q).sum() <= 1


lengths, factors = st.integers(64, 100_000), st.floats(1.0, 64.0)
scalings: st.SearchStrategy[RopeScaling] = st.one_of(
    st.builds(LinearScaling, factors),
    st.builds(
        lambda factor, low, ratio, length: Llama3Scaling(factor, low, low * ratio, length),
        *(factors, st.floats(0.5, 2.0), st.floats(1.1, 8.0), lengths),
    ),
    st.builds(
        YarnScaling,
        *(factors, lengths, st.floats(0.5, 2.0)),
        beta_fast=st.floats(8.0, 64.0),
        beta_slow=st.floats(0.5, 4.0),
        truncate=st.booleans(),
    ),
)


@settings(max_examples=100, deadline=None)
@given(scaling=scalings, pairs=st.integers(2, 128), theta=st.floats(100.0, 1e7))
def test_scaling_is_the_same_to_the_bit(scaling: RopeScaling, pairs: int, theta: float):
    model = dataclasses.replace(PRESETS["tiny"], head_dim=2 * pairs, rope_theta=theta, rope_scaling=scaling)
    frequencies_q, factor = theirs(model)
    # From the same powers, whose own last bits are no matter of the scaling.
    powers_q = (theta ** (torch.arange(0, 2 * pairs, 2, dtype=torch.float) / (2 * pairs))).numpy()
    np.testing.assert_array_equal(scaling.frequencies(powers_q, theta), frequencies_q)
    assert factor == scaling.attention_factor


@settings(max_examples=50, deadline=None)
@given(pairs=st.integers(2, 128), theta=st.floats(100.0, 1e7))
def test_frequencies_without_scaling_are_at_most_two_bits_off(pairs: int, theta: float):
    model = dataclasses.replace(PRESETS["tiny"], head_dim=2 * pairs, rope_theta=theta)
    np.testing.assert_array_max_ulp(rope_frequencies(model), theirs(model)[0], maxulp=2)
