"""Meta's `params.json`, read as a model description.

The file says less than a model is. What it leaves out is known from the published models:

- Which LLaMA it is, and with it the longest text: 131,072 tokens with scaled rotary frequencies (3.1 and later), 8,192
  with θ = 500,000 (3), 16,384 with another θ than 10,000 (Code Llama), 2,048 with the ε of LLaMA 1's 7B, 13B and 30B or
  the heads of its 65B, and 4,096 otherwise (2). Only a limit, it changes no logit.
- By how much `use_scaled_rope` scales. Meta's code has one factor, 8. The published Hugging Face forms of the two text
  models of LLaMA 3.2, which are told apart by their sizes, have 32, and so have they here.
"""

import dataclasses
from pathlib import Path
from typing import Any

from alpaca_jax.convert.source import make_config
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.rope_scaling import Llama3Scaling
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json

# They bound Meta's own cache.
_WITHOUT_EFFECT = {"max_batch_size", "max_seq_len"}
# (dim, n_layers) of LLaMA 3.2 1B and 3B.
_SIZES_OF_3_2 = {(2048, 16), (3072, 28)}
# Larger numbers are infinite in float32.
_LARGEST = 3e38


@dataclasses.dataclass(frozen=True)
class MetaParams:
    """The file's content, under its own names; `vocab_size` is −1 where the tensors have to say it."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int = -1
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    use_scaled_rope: bool = False

    @classmethod
    def read(cls, path: Path) -> "MetaParams":
        """The content of the file.

        Raises:
          UserError: no such file, a key is missing or of the wrong type, or it describes something that this project
            does not compute; the key is named.
        """
        params = read_json(path)
        if not isinstance(params, dict):
            raise UserError(
                str(path), expected="a JSON object", found=shorten(params), remedy="check that the file is whole"
            )
        values = {key: value for key, value in params.items() if value is not None and key not in _WITHOUT_EFFECT}
        values.setdefault("n_kv_heads", values.get("n_heads"))
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields and value is not False:
                raise _refuse(path, key, "no such key, as in a plain LLaMA", shorten(value))
        read = {}
        for name, field in fields.items():
            value = values.get(name, None if field.default is dataclasses.MISSING else field.default)
            if value is None and name != "ffn_dim_multiplier":
                raise _refuse(path, name, "a positive whole number", "none")
            read[name] = _checked(path, name, value, field.type)
        params = cls(**read)
        if params.dim % params.n_heads:
            raise _refuse(path, "dim", f"a multiple of n_heads, {params.n_heads}", str(params.dim))
        return params

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.n_heads

    @property
    def intermediate_size(self) -> int:
        """The width of the MLP: 2/3 of 4 × dim, times the multiplier, rounded up to a multiple (Meta's formula)."""
        width = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of

    def model(self, subject: str, *, vocab_size: int, tied_embeddings: bool) -> ModelConfig:
        """The model description, with what the tensors add to it.

        Raises:
          UserError: the sizes do not fit together; `subject` names where they come from.
        """
        return make_config(
            subject,
            vocab_size=vocab_size if self.vocab_size == -1 else self.vocab_size,
            hidden_size=self.dim,
            intermediate_size=self.intermediate_size,
            num_layers=self.n_layers,
            num_heads=self.n_heads,
            num_kv_heads=self.n_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self._max_positions,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            tied_embeddings=tied_embeddings,
            rope_scaling=self._scaling,
        )

    @property
    def _max_positions(self) -> int:
        if self.use_scaled_rope:
            return 131_072
        if self.rope_theta != 10_000:
            return 8192 if self.rope_theta == 500_000 else 16_384
        first = self.norm_eps == 1e-6 or (self.dim == 8192 and self.n_kv_heads == self.n_heads)
        return 2048 if first else 4096

    @property
    def _scaling(self) -> Llama3Scaling | None:
        if not self.use_scaled_rope:
            return None
        return Llama3Scaling(
            factor=32.0 if (self.dim, self.n_layers) in _SIZES_OF_3_2 else 8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        )


def _checked(path: Path, name: str, value: Any, wanted: Any) -> Any:
    """The value in the type of its field."""
    if wanted is bool:
        if not isinstance(value, bool):
            raise _refuse(path, name, "true or false", shorten(value))
        return value
    if wanted is int:
        if type(value) is not int or (value <= 0 and (name, value) != ("vocab_size", -1)):
            raise _refuse(path, name, "a positive whole number", shorten(value))
        return value
    if value is not None and (type(value) not in (int, float) or not 0 < value < _LARGEST):
        raise _refuse(path, name, "a positive number", shorten(value))
    return None if value is None else float(value)


def _refuse(path: Path, key: str, expected: str, found: str) -> UserError:
    return UserError(
        f"{path}, {key}",
        expected=expected,
        found=found,
        remedy="choose a text-only LLaMA of Meta's; others are not read",
    )
