"""One description of a model, read from a preset, a checkpoint or a foreign configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alpaca_jax.model.checks import check_fields
from alpaca_jax.model.rope_scaling import RopeScaling, scaling_from_json, scaling_to_json
from alpaca_jax.support.errors import UserError

# The vocabulary is padded to a multiple of this inside the parameters, so that it divides by the tensor axis and fills
# the hardware's tiles. Padded ids are never predicted, and a checkpoint for others leaves without them.
_VOCAB_MULTIPLE = 64


# What descriptions written before these fields existed leave out; all of them then meant a plain LLaMA.
_ADDED_LATER = {"rope_scaling", "sliding_window", "qkv_bias", "output_bias", "mlp_bias", "qk_norm"}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The sizes of a LLaMA or of one of its relatives; the names are those of Hugging Face where it has one.

    Attributes:
      rope_scaling: how the rotary frequencies are stretched, if they are.
      sliding_window: how many tokens back a token sees, itself counted; None for all of them.
      qkv_bias: whether queries, keys and values have biases (Qwen 2).
      output_bias: whether attention's last product has one.
      mlp_bias: whether the three products of the MLP have them.
      qk_norm: whether each head's queries and keys are normalised before they are turned (Qwen 3).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        check_fields(self, "model description, ")
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                "model description, num_heads",
                expected=f"a multiple of num_kv_heads, {self.num_kv_heads}",
                found=str(self.num_heads),
                remedy="check where the description comes from",
            )
        if self.head_dim % 2:
            raise UserError(
                "model description, head_dim",
                expected="an even number, as rotary embedding turns pairs",
                found=str(self.head_dim),
                remedy="check where the description comes from",
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding as stored: `vocab_size` rounded up."""
        return -(-self.vocab_size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has, the padding of its vocabulary not counted."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        layer += self.qkv_bias * self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        layer += self.output_bias * self.hidden_size
        layer += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        layer += self.qk_norm * 2 * self.head_dim
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The description as a JSON object; `from_json` reads it back."""
        scaling = None if self.rope_scaling is None else scaling_to_json(self.rope_scaling)
        return dataclasses.asdict(self) | {"rope_scaling": scaling}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str) -> "ModelConfig":
        """The description in a JSON object; one from before a feature was supported describes a model without it.

        Raises:
          UserError: a key is missing, unknown or of the wrong type; `source` names the file in it.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        missing = known - _ADDED_LATER - set(value)
        if missing or set(value) - known:
            raise UserError(
                source,
                expected=f"a model description with {', '.join(sorted(known))}",
                found=f"missing {sorted(missing)}, unknown {sorted(set(value) - known)}",
                remedy="convert the checkpoint again with this version",
            )
        scaling = value.get("rope_scaling")
        scaling = None if scaling is None else scaling_from_json(scaling, source)
        return cls(**{**value, "rope_scaling": scaling})

    def check_context(self, context: int | None) -> None:
        """Refuses a length of prompt and answer together, in tokens, that the model was not made for; None is its own.

        Raises:
          UserError: it is longer, or has no room for a prompt and an answer.
        """
        longest = self.max_position_embeddings
        if context is not None and not 2 <= context <= longest:
            raise UserError(
                "--context",
                expected=f"2 to {longest:,} tokens, the model's own",
                found=f"{context:,}",
                remedy="correct it",
            )

    def differences(self, other: "ModelConfig") -> list[str]:
        """What differs from another description, as `name: mine ≠ theirs`."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name}: {mine[name]} ≠ {theirs[name]}" for name in mine if mine[name] != theirs[name]]
