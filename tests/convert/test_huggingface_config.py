"""Hugging Face's config.json: what is read is what transformers reads, and what is written reads back."""

import dataclasses
import json
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.convert.huggingface_config import read_model_config, write_model_config
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.presets import PRESETS
from alpaca_jax.model.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling, yarn_attention_factor
from alpaca_jax.support.errors import UserError

_SIZES: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 1,
    "high_freq_factor": 4,
    "original_max_position_embeddings": 64,
}

positive = st.floats(1.0, 1e6)
lengths = st.integers(1, 10**6)
scalings: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.builds(LinearScaling, positive),
    st.builds(Llama3Scaling, positive, st.floats(0.5, 1.0), st.floats(2.0, 8.0), lengths),
    st.builds(YarnScaling, positive, lengths, positive, positive, positive, st.booleans()),
    positive.map(lambda factor: YarnScaling(factor, 4096, yarn_attention_factor(factor))),
)
biases = st.sampled_from([(False, False, False), (True, False, False), (True, True, False), (True, True, True)])


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    """Any model of the family that some architecture expresses."""
    kv_heads = draw(st.integers(1, 8))
    qkv_bias, output_bias, mlp_bias = draw(biases)
    heads, width = kv_heads * draw(st.integers(1, 8)), draw(st.integers(1, 10**4))
    qk_norm, window = draw(st.booleans()), draw(st.none() | lengths)
    if mlp_bias or (output_bias and not qk_norm):  # which only LLaMA has
        qk_norm, window, width = False, None, heads * width
    if qk_norm:
        output_bias = qkv_bias
    return ModelConfig(
        vocab_size=draw(lengths),
        hidden_size=width,
        intermediate_size=draw(lengths),
        num_layers=draw(st.integers(1, 100)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 256)),
        max_position_embeddings=draw(lengths),
        rope_theta=draw(st.floats(2.0, 1e7)),
        norm_eps=draw(st.floats(1e-8, 1e-2)),
        tied_embeddings=draw(st.booleans()),
        rope_scaling=draw(scalings),
        sliding_window=window,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
    )


@settings(max_examples=200, deadline=None)
@given(model=models())
def test_what_is_written_reads_back(model: ModelConfig) -> None:
    written = write_model_config(model, bos_id=None, eos_id=2, dtype="bfloat16")
    assert read_model_config(json.loads(json.dumps(written)), "config.json") == model


@settings(max_examples=50, deadline=None)
@given(model=models())
def test_transformers_reads_it_and_writes_it_in_its_own_spelling(model: ModelConfig) -> None:
    written = write_model_config(model, bos_id=1, eos_id=2, dtype="bfloat16")
    theirs = _CLASSES[written["model_type"]].from_dict(dict(written))
    assert (theirs.bos_token_id, theirs.eos_token_id, str(theirs.dtype)) == (1, 2, "torch.bfloat16")
    spelt_anew = json.loads(theirs.to_json_string())
    assert "rope_theta" not in spelt_anew
    assert read_model_config(spelt_anew, "config.json") == model


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written(name: str) -> None:
    kinds = {"mistral": "mistral", "qwen2.5": "qwen2", "qwen3": "qwen3"}
    written = write_model_config(PRESETS[name], bos_id=1, eos_id=2, dtype="float32")
    assert written["model_type"] == kinds.get(name.split("_")[0], "llama")
    assert read_model_config(written, "config.json") == PRESETS[name]


@pytest.mark.parametrize(
    "features",
    [
        {"qkv_bias": True, "mlp_bias": True},
        {"output_bias": True},
        {"mlp_bias": True, "sliding_window": 8},
        {"qkv_bias": True, "output_bias": True, "sliding_window": 8},
        {"qk_norm": True, "qkv_bias": True},
        {"qk_norm": True, "mlp_bias": True},
    ],
)
def test_features_that_no_architecture_has_together_are_refused(features: dict[str, Any]) -> None:
    model = dataclasses.replace(PRESETS["tiny"], **features)
    with pytest.raises(UserError, match=f"{next(iter(features))} True"):
        write_model_config(model, bos_id=1, eos_id=2, dtype="float32")


@pytest.mark.parametrize("kind", _CLASSES)
def test_what_is_left_out_is_as_in_transformers(kind: str) -> None:
    theirs = json.loads(_CLASSES[kind](**_SIZES).to_json_string())
    short = _SIZES | {"model_type": kind}
    if kind in ("mistral", "qwen2", "qwen3"):  # the defaults of 8 and 32 do not divide by 4 heads
        short["num_attention_heads"] = theirs["num_attention_heads"] = 64
        theirs["head_dim"] = short["head_dim"] = 10
    assert read_model_config(short, "short") == read_model_config(theirs, "theirs")
    # Null is not the same as nothing: all heads then have keys and values of their own.
    nulled = read_model_config(short | {"num_key_value_heads": None}, "nulled")
    assert nulled.num_kv_heads == nulled.num_heads


@pytest.mark.parametrize(
    ("kind", "change", "window"),
    [
        ("mistral", {}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 7}, 7),
        ("mistral", {"sliding_window": 7, "layer_types": ["sliding_attention"] * 3}, 7),
        ("qwen2", {"sliding_window": 7}, None),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 3}, None),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": True}, None),  # the first 28 layers see everything
        ("qwen2", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 0}, 7),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}, 4096),
        ("qwen3", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 1}, None),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["full_attention"] * 3, "max_window_layers": 0}, None),
        ("llama", {"sliding_window": None, "layer_types": ["full_attention"] * 3}, None),
    ],
)
def test_each_architecture_speaks_of_its_window_in_its_own_way(
    kind: str, change: dict[str, Any], window: int | None
) -> None:
    heads = {"num_key_value_heads": 2}
    assert read_model_config(_SIZES | heads | {"model_type": kind} | change, "config.json").sliding_window == window


@pytest.mark.parametrize(
    ("kind", "change", "features"),
    [
        ("llama", {}, ()),
        ("llama", {"attention_bias": True}, ("qkv_bias", "output_bias")),
        ("llama", {"mlp_bias": True, "attention_bias": None}, ("mlp_bias",)),
        ("mistral", {"attention_bias": False}, ()),
        ("qwen2", {}, ("qkv_bias",)),
        ("qwen2", {"attention_bias": True}, ("qkv_bias",)),
        ("qwen3", {}, ("qk_norm",)),
        ("qwen3", {"attention_bias": True}, ("qkv_bias", "output_bias", "qk_norm")),
    ],
)
def test_biases_and_norms(kind: str, change: dict[str, Any], features: tuple[str, ...]) -> None:
    model = read_model_config(_SIZES | {"num_key_value_heads": 2, "model_type": kind} | change, "config.json")
    names = ("qkv_bias", "output_bias", "mlp_bias", "qk_norm")
    assert tuple(name for name in names if getattr(model, name)) == features


_YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("change", "theta", "scaling"),
    [
        ({}, 1e4, None),
        ({"rope_theta": 7, "rope_scaling": {}}, 7.0, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 1e4, LinearScaling(2.0)),
        ({"rope_theta": 7, "rope_parameters": {"type": "linear", "factor": 2}}, 7.0, LinearScaling(2.0)),
        ({"rope_theta": 7, "rope_parameters": {"rope_theta": 8, "rope_type": "default"}}, 8.0, None),
        ({"rope_theta": 7, "rope_scaling": _LLAMA3, "rope_parameters": _LLAMA3 | {"rope_theta": 7}}, 7.0, "llama3"),
        ({"rope_scaling": _LLAMA3 | {"type": "llama3"}, "original_max_position_embeddings": 64}, 1e4, "llama3"),
        (
            {"rope_scaling": {key: _LLAMA3[key] for key in _LLAMA3 if "original" not in key}},
            1e4,
            Llama3Scaling(8.0, 1.0, 4.0, 2048),
        ),
        ({"rope_scaling": _YARN}, 1e4, YarnScaling(4.0, 64, yarn_attention_factor(4.0))),
        ({"rope_scaling": _YARN | {"factor": None}}, 1e4, YarnScaling(32.0, 64, yarn_attention_factor(32.0))),
        ({"rope_scaling": _YARN | {"attention_factor": 2, "mscale": 1}}, 1e4, YarnScaling(4.0, 64, 2.0)),
        ({"rope_scaling": _YARN | {"mscale": 1, "mscale_all_dim": 1.0}}, 1e4, YarnScaling(4.0, 64, 1.0)),
    ],
)
def test_scaling_in_both_spellings(change: dict[str, Any], theta: float, scaling: Any) -> None:
    wanted = Llama3Scaling(8.0, 1.0, 4.0, 64) if scaling == "llama3" else scaling
    model = read_model_config(_SIZES | {"model_type": "llama"} | change, "config.json")
    assert (model.rope_theta, model.rope_scaling) == (theta, wanted)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gemma"}, "model_type: expected 'llama' or 'mistral' or 'qwen2' or 'qwen3'; found 'gemma'"),
        ({"model_type": None}, "model_type"),
        ({"architectures": ["MistralForCausalLM"]}, "architectures: expected ['LlamaForCausalLM']"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]}, "architectures"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias: expected False or none"),
        ({"model_type": "qwen2", "attention_bias": False}, "attention_bias: expected True or none"),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias"),
        ({"attention_bias": 1}, "attention_bias: expected true or false"),
        ({"sliding_window": 64}, "sliding_window: expected none"),
        ({"use_sliding_window": True}, "use_sliding_window: expected False or none"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window: expected a positive whole number"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types: expected 3 times 'full_attention'"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 3}, "expected 3 times 'sliding_attention'"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
            "max_window_layers: expected 0 or 3, so that all layers are alike",
        ),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["full_attention", "chunked", "linear"]},
            "layer_types: expected 3 times 'full_attention' or 'sliding_attention'",
        ),
        ({"model_type": "qwen2", "use_mrope": True}, "use_mrope"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"is_causal": False}, "is_causal"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling, rope_type: expected default or"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope_scaling, type"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "rope_scaling, rope_type"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling, factor: expected a positive number; found none"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling, factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "mrope_section": [1]}}, "mrope_section"),
        ({"rope_scaling": _LLAMA3 | {"high_freq_factor": 1}}, "high_freq_factor: expected more than low_freq_factor"),
        ({"rope_scaling": _LLAMA3, "rope_parameters": _LLAMA3 | {"factor": 4}}, "rope_parameters: expected the same"),
        ({"rope_scaling": _LLAMA3, "original_max_position_embeddings": 65}, "original_max_position_embeddings"),
        ({"rope_scaling": _YARN, "rope_theta": 1}, "rope_theta: expected more than 1"),
        ({"rope_scaling": _YARN | {"truncate": None}}, "truncate"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters, full_attention"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as refused:
        read_model_config(_SIZES | {"num_key_value_heads": 2, "model_type": "llama"} | change, "config.json")
    assert named in str(refused.value)
    assert str(refused.value).startswith("config.json, ")
