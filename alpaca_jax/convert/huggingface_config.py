"""Hugging Face's `config.json` of a LLaMA or of one of its relatives, read as a model description and written from one.

What a key means, and what its absence means, is each architecture's own; the defaults are those of transformers.
"""

import dataclasses
from typing import Any

from alpaca_jax.convert.config_values import ConfigValues
from alpaca_jax.convert.huggingface_rope import read_rope, write_rope
from alpaca_jax.convert.source import make_config
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError, shorten


@dataclasses.dataclass(frozen=True)
class _Family:
    """An architecture, by its `model_type`.

    Attributes:
      names: of the architecture; early conversions of the first LLaMA spell it the second way.
      context: the default of max_position_embeddings.
      kv_heads: the default of num_key_value_heads; None for as many as heads.
      head_dim: the default of head_dim; None for the width over the heads.
      windows: how it speaks of a sliding window: not at all, of one number, or of a number that is switched on.
      neutral: keys that it has no use for, with the values that say nothing else.
    """

    names: tuple[str, ...]
    context: int
    kv_heads: int | None
    head_dim: int | None
    windows: str
    neutral: dict[str, tuple[Any, ...]]


_NO_BIAS = {"attention_bias": (False, None), "mlp_bias": (False, None)}
_FAMILIES = {
    "llama": _Family(("LlamaForCausalLM", "LLaMAForCausalLM"), 2048, None, None, "none", {}),
    "mistral": _Family(("MistralForCausalLM",), 131_072, 8, None, "number", _NO_BIAS),
    # Queries, keys and values have biases whatever a key says.
    "qwen2": _Family(("Qwen2ForCausalLM",), 32_768, 32, None, "switch", _NO_BIAS | {"attention_bias": (True, None)}),
    "qwen3": _Family(("Qwen3ForCausalLM",), 32_768, 32, 128, "switch", {"mlp_bias": (False, None)}),
}

# Keys that change what a model computes where its architecture knows them, with the values under which nothing is
# changed. (`pretraining_tp` splits matrix products, which rounds otherwise; `swish` is another name of `silu`.)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "logits_scaling": (1, None),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "no_rope_layers": (None,),
    "attention_chunk_size": (None,),
    "num_local_experts": (0, None),
    "num_experts": (0, None),
    "is_causal": (True, None),
    "per_layer_config": (None, {}),
    "use_mrope": (False, None),
    "use_qk_norm": (False, None),
    "clip_qkv": (None,),
}


def read_model_config(config: Any, subject: str) -> ModelConfig:
    """The model description in a `config.json`.

    Args:
      config: the file's JSON value.
      subject: the file's name, for messages.

    Raises:
      UserError: it describes another architecture, or something that this project does not compute; the key is named.
    """
    if not isinstance(config, dict):
        raise UserError(subject, expected="a JSON object", found=shorten(config), remedy="check that the file is whole")
    values = ConfigValues(config, subject)
    family = _family(values)
    for key, allowed in (_NEUTRAL | family.neutral).items():
        values.neutral(key, allowed)
    hidden_size, num_heads = values.integer("hidden_size"), values.integer("num_attention_heads")
    if config.get("head_dim") is None and family.head_dim is None and hidden_size % num_heads:
        raise values.refuse("head_dim", "a number, as hidden_size is no multiple of the heads")
    num_layers = values.integer("num_hidden_layers")
    # Where the key is there and null, transformers takes the number of heads.
    kv_heads = num_heads if "num_key_value_heads" in config or family.kv_heads is None else family.kv_heads
    context = values.integer("max_position_embeddings", family.context)
    theta, scaling = read_rope(values, context)
    kind = config["model_type"]
    attention_bias = values.flag("attention_bias")
    return make_config(
        subject,
        vocab_size=values.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=values.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=values.integer("num_key_value_heads", kv_heads),
        head_dim=values.integer("head_dim", family.head_dim or hidden_size // num_heads),
        max_position_embeddings=context,
        rope_theta=theta,
        norm_eps=values.real("rms_norm_eps", 1e-6),
        tied_embeddings=values.flag("tie_word_embeddings"),
        rope_scaling=scaling,
        sliding_window=_read_window(values, family, num_layers),
        qkv_bias=attention_bias or kind == "qwen2",
        output_bias=attention_bias and kind != "qwen2",
        mlp_bias=values.flag("mlp_bias"),
        qk_norm=kind == "qwen3",
    )


def _family(config: ConfigValues) -> _Family:
    kind = config.values.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise config.refuse("model_type", " or ".join(map(repr, _FAMILIES)))
    family = _FAMILIES[kind]
    architectures = config.values.get("architectures")
    if architectures is not None and architectures not in [[name] for name in family.names]:
        raise config.refuse("architectures", f"[{family.names[0]!r}]")
    return family


def _read_window(config: ConfigValues, family: _Family, num_layers: int) -> int | None:
    """How far back a token sees, the same in all layers."""
    window = None
    if family.windows == "none":
        config.neutral("sliding_window", (None,))
    elif family.windows == "number" or config.flag("use_sliding_window"):
        window = config.integer("sliding_window", None) if "sliding_window" in config.values else 4096
    if family.windows != "switch":
        config.neutral("use_sliding_window", (window is not None, None))
    layer_types = config.values.get("layer_types")
    if layer_types is None and family.windows == "switch" and window is not None:
        first = config.values.get("max_window_layers", 28)
        if type(first) is not int or 0 < first < num_layers:
            raise config.refuse("max_window_layers", f"0 or {num_layers}, so that all layers are alike")
        return window if first <= 0 else None
    if layer_types is not None:
        return _window_of_layer_types(config, window, num_layers, switchable=family.windows == "switch")
    return window


def _window_of_layer_types(config: ConfigValues, window: int | None, num_layers: int, switchable: bool) -> int | None:
    """The window of layers that are listed one by one; they must be alike."""
    full, sliding = ["full_attention"] * num_layers, ["sliding_attention"] * num_layers
    allowed = [full] if window is None else [full, sliding] if switchable else [sliding]
    if config.values["layer_types"] not in allowed:
        words = " or ".join(repr(kinds[0]) for kinds in allowed)
        raise config.refuse("layer_types", f"{num_layers} times {words}")
    return window if config.values["layer_types"] == sliding else None


def write_model_config(model: ModelConfig, *, bos_id: int | None, eos_id: int, dtype: str) -> dict[str, Any]:
    """A `config.json` for the model, which `read_model_config` reads back and transformers (4.50 and later) loads.

    Args:
      model: the description.
      bos_id: the id of the token that begins a text, if there is one.
      eos_id: the id of the token that ends it.
      dtype: the type of the weights, as "bfloat16".

    Raises:
      UserError: no architecture has the model's features together.
    """
    kind = _expressing_family(model)
    window: dict[str, Any] = {}
    if _FAMILIES[kind].windows == "number":
        window = {"sliding_window": model.sliding_window}
    if _FAMILIES[kind].windows == "switch":
        on = model.sliding_window is not None
        window = {
            "use_sliding_window": on,
            "sliding_window": model.sliding_window,
            "max_window_layers": 0 if on else model.num_layers,
        }
    biases = {"attention_bias": model.qkv_bias, "mlp_bias": model.mlp_bias}
    return {
        "architectures": [_FAMILIES[kind].names[0]],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embeddings,
        **write_rope(model),
        **window,
        **{key: on for key, on in biases.items() if key not in _FAMILIES[kind].neutral},
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _expressing_family(model: ModelConfig) -> str:
    """The first architecture that has all of the model's features and no more."""
    windowed, whole_heads = model.sliding_window is not None, model.hidden_size % model.num_heads == 0
    biases = (model.qkv_bias, model.output_bias, model.mlp_bias)
    fitting = {
        # transformers refuses a LLaMA whose width is no multiple of its heads, and no other.
        "llama": not model.qk_norm and not windowed and model.qkv_bias == model.output_bias and whole_heads,
        "mistral": not model.qk_norm and not any(biases),
        "qwen2": not model.qk_norm and biases == (True, False, False),
        "qwen3": model.qk_norm and biases in ((False, False, False), (True, True, False)),
    }
    for kind, fits in fitting.items():
        if fits:
            return kind
    features = ("sliding_window", "qkv_bias", "output_bias", "mlp_bias", "qk_norm")
    raise UserError(
        "model description",
        expected="features that LLaMA, Mistral, Qwen 2 or Qwen 3 has together, to be written as one of them",
        found=", ".join(f"{name} {getattr(model, name)}" for name in features) + f", {model.num_heads} heads",
        remedy="keep the model in this project's form; no Hugging Face architecture computes it",
    )
