"""Rotary embedding in Hugging Face's `config.json`: θ and how it is scaled, in both spellings that are in use.

Before transformers 5 a file had `rope_theta` beside `rope_scaling: {"rope_type" (once "type"), "factor", …}`; since
then `rope_parameters: {"rope_type", "rope_theta", "factor", …}` holds all. The first is written: all versions read it.
"""

from typing import Any

from alpaca_jax.convert.config_values import ConfigValues
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    scaling_to_json,
    yarn_attention_factor,
)

_THETA = 10_000.0
_ORIGINAL = "original_max_position_embeddings"
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_NUMBERS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL},
    "yarn": {
        *("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    },
}


def read_rope(config: ConfigValues, context: int) -> tuple[float, RopeScaling | None]:
    """θ and the scaling.

    Args:
      config: the whole configuration.
      context: its `max_position_embeddings`, the original length where a scaling does not say it.

    Raises:
      UserError: a kind of scaling that this project does not compute, or values that contradict each other.
    """
    theta = config.real("rope_theta", _THETA)
    found = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = config.values.get(key)
        if value is None or value == {}:
            continue
        if not isinstance(value, dict):
            raise config.refuse(key, "a JSON object or null")
        found[key] = _read_object(ConfigValues(value, f"{config.subject}, {key}"), config, theta, context)
    if not found:
        return theta, None
    first, *others = found.values()
    if any(other != first for other in others):
        raise config.refuse("rope_parameters", "the same as rope_scaling says")
    return first


def _read_object(
    rope: ConfigValues, config: ConfigValues, theta: float, context: int
) -> tuple[float, RopeScaling | None]:
    kinds = [rope.values[key] for key in ("rope_type", "type") if key in rope.values]
    kind = kinds[0] if kinds else "default"
    if not isinstance(kind, str) or kind not in _NUMBERS or kinds[1:] not in ([], [kind]):
        raise rope.refuse("rope_type" if "rope_type" in rope.values else "type", " or ".join(_NUMBERS))
    for key in sorted(rope.values.keys() - _COMMON - _NUMBERS[kind]):
        raise rope.refuse(key, f"no such key for {kind!r}")
    rope.neutral("partial_rotary_factor", (1, None))
    theta = rope.real("rope_theta", theta)
    if kind == "linear":
        return theta, LinearScaling(rope.real("factor"))
    if kind == "llama3":
        low, high = rope.real("low_freq_factor"), rope.real("high_freq_factor")
        if high <= low:
            raise rope.refuse("high_freq_factor", f"more than low_freq_factor, {low}")
        return theta, Llama3Scaling(rope.real("factor"), low, high, _original_length(rope, config, context))
    if kind == "yarn":
        if theta <= 1:
            raise config.refuse("rope_theta", "more than 1")
        return theta, _read_yarn(rope, _original_length(rope, config, context), context)
    return theta, None


def _original_length(rope: ConfigValues, config: ConfigValues, context: int) -> int:
    """The length before stretching: in the object, beside it, or the model's own context."""
    outside = config.integer(_ORIGINAL, None)
    inside = rope.integer(_ORIGINAL, outside)
    if outside not in (None, inside):
        raise rope.refuse(_ORIGINAL, f"{outside}, as beside it")
    return context if inside is None else inside


def _read_yarn(rope: ConfigValues, original: int, context: int) -> YarnScaling:
    factor = rope.real("factor", context / original)
    if "truncate" in rope.values and not isinstance(rope.values["truncate"], bool):
        raise rope.refuse("truncate", "true or false")
    rounded = {key: rope.real(key, 1.0) for key in ("mscale", "mscale_all_dim") if rope.values.get(key)}
    if len(rounded) == 2:
        attention = yarn_attention_factor(factor, rounded["mscale"]) / yarn_attention_factor(
            factor, rounded["mscale_all_dim"]
        )
    else:  # either alone changes nothing
        attention = yarn_attention_factor(factor)
    return YarnScaling(
        factor,
        original,
        attention_factor=rope.real("attention_factor", attention),
        beta_fast=rope.real("beta_fast", 32.0),
        beta_slow=rope.real("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )


def write_rope(model: ModelConfig) -> dict[str, Any]:
    """The keys of a configuration that `read_rope` and transformers since 4.43 read."""
    scaling = model.rope_scaling
    if scaling is None:
        return {"rope_theta": model.rope_theta, "rope_scaling": None}
    numbers = scaling_to_json(scaling)
    del numbers["kind"]
    if isinstance(scaling, YarnScaling):
        # Left out where they have the usual value, as not every version knows them.
        if scaling.truncate:
            del numbers["truncate"]
        if scaling.attention_factor == yarn_attention_factor(scaling.factor):
            del numbers["attention_factor"]
    return {"rope_theta": model.rope_theta, "rope_scaling": {"rope_type": scaling.kind, **numbers}}
