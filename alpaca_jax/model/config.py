"""One description of a model, read from a preset, a checkpoint or a foreign configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alpaca_jax.support.errors import UserError, shorten

# The vocabulary is padded to a multiple of this inside the parameters, so that it divides by the tensor axis and fills
# the hardware's tiles. Padded ids are never predicted, and a checkpoint for others leaves without them.
_VOCAB_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The sizes of a LLaMA; the names are those of Hugging Face where it has one."""

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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type or (field.type is not bool and value <= 0):
                raise UserError(
                    f"model description, {field.name}",
                    expected=f"a positive {field.type.__name__}" if field.type is not bool else "true or false",  # type: ignore[union-attr]
                    found=shorten(value),
                    remedy="check where the description comes from",
                )
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
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The description as a JSON object; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str) -> "ModelConfig":
        """The description in a JSON object.

        Raises:
          UserError: a key is missing, unknown or of the wrong type; `source` names the file in it.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(value) != known:
            raise UserError(
                source,
                expected=f"a model description with {', '.join(sorted(known))}",
                found=f"missing {sorted(known - set(value))}, unknown {sorted(set(value) - known)}",
                remedy="convert the checkpoint again with this version",
            )
        return cls(**value)

    def differences(self, other: "ModelConfig") -> list[str]:
        """What differs from another description, as `name: mine ≠ theirs`."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name}: {mine[name]} ≠ {theirs[name]}" for name in mine if mine[name] != theirs[name]]
