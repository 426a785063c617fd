"""Hugging Face's `config.json` of a LLaMA, read as a model description."""

from typing import Any

from alpaca_jax.convert.source import make_config
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError, shorten

# Early conversions of the first LLaMA spell it the second way; both mean the same.
_ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")

# Keys that change what the model computes, with the values under which it computes a plain LLaMA. (`pretraining_tp`
# splits matrix products, which rounds otherwise; `swish` is another name of `silu`.)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, None),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "logits_scaling": (1, None),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "no_rope_layers": (None,),
    "num_local_experts": (0, None),
}
_REQUIRED = ("model_type",)

# Larger numbers are infinite in float32.
_LARGEST = 3e38


def read_model_config(config: Any, subject: str) -> ModelConfig:
    """The model description in a `config.json`; what it leaves out has the default of transformers' LlamaConfig.

    Args:
      config: the file's JSON value.
      subject: the file's name, for messages.

    Raises:
      UserError: it describes no LLaMA, or one with something that this project does not compute; the key is named.
    """
    if not isinstance(config, dict):
        raise UserError(subject, expected="a JSON object", found=shorten(config), remedy="check that the file is whole")
    _refuse_what_is_not_computed(config, subject)
    hidden_size = _integer(config, "hidden_size", subject)
    num_heads = _integer(config, "num_attention_heads", subject)
    if config.get("head_dim") is None and hidden_size % num_heads:
        raise _refuse(subject, "head_dim", "a number, as hidden_size is no multiple of the heads", "none")
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise _refuse(subject, "tie_word_embeddings", "true or false", shorten(tied))
    return make_config(
        subject,
        vocab_size=_integer(config, "vocab_size", subject),
        hidden_size=hidden_size,
        intermediate_size=_integer(config, "intermediate_size", subject),
        num_layers=_integer(config, "num_hidden_layers", subject),
        num_heads=num_heads,
        num_kv_heads=_integer(config, "num_key_value_heads", subject, num_heads),
        head_dim=_integer(config, "head_dim", subject, hidden_size // num_heads),
        max_position_embeddings=_integer(config, "max_position_embeddings", subject, 2048),
        rope_theta=_rope_theta(config, subject),
        norm_eps=_real(config, "rms_norm_eps", subject, 1e-6),
        tied_embeddings=tied,
    )


def _refuse_what_is_not_computed(config: dict[str, Any], subject: str) -> None:
    for key, neutral in _NEUTRAL.items():
        if key not in config and key not in _REQUIRED:
            continue
        value = config.get(key)
        if value not in neutral:
            expected = " or ".join("none" if plain is None else repr(plain) for plain in neutral)
            raise _refuse(subject, key, expected, shorten(value))
    architectures = config.get("architectures") or [_ARCHITECTURES[0]]
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in _ARCHITECTURES:
        raise _refuse(subject, "architectures", f"[{_ARCHITECTURES[0]!r}]", shorten(architectures))


def _rope_theta(config: dict[str, Any], subject: str) -> float:
    """θ, from `rope_parameters` (transformers 5) or `rope_theta` (before), where nothing scales the rotation."""
    theta = _real(config, "rope_theta", subject, 10_000.0)
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise _refuse(subject, key, "a JSON object or null", shorten(rope))
        neutral = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
        if any(rope[name] != neutral.get(name) for name in rope.keys() - {"rope_theta"}):
            raise _refuse(subject, key, "no scaling of the rotary embedding", shorten(rope))
        theta = _real(rope, "rope_theta", f"{subject}, {key}", theta)
    return theta


def _integer(config: dict[str, Any], key: str, subject: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value <= 0:
        raise _refuse(subject, key, "a positive whole number", "none" if value is None else shorten(value))
    return value


def _real(config: dict[str, Any], key: str, subject: str, default: float) -> float:
    value = config.get(key)
    value = default if value is None else value
    if type(value) not in (int, float) or not 0 < value < _LARGEST:
        raise _refuse(subject, key, "a positive number", shorten(value))
    return float(value)


def _refuse(subject: str, key: str, expected: str, found: str) -> UserError:
    return UserError(
        f"{subject}, {key}",
        expected=expected,
        found=found,
        remedy="choose a plain LLaMA; this version imports no other",
    )
