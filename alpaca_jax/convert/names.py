"""The one table between Hugging Face's tensor names and layouts and this project's parameter tree, for both directions.

A layout is written as axes in letters: N layers, V vocabulary, D hidden size, H heads, K key-value heads, Q head
dimension, F intermediate size. Letters joined in one word are axes merged into one, the first letter outermost:
Hugging Face's `HQ D` is a matrix [H × Q, D]. The tree stacks the layers along a first axis, which the table leaves out,
and pads V with zeros to `ModelConfig.padded_vocab_size`.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from alpaca_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """One parameter here and the tensor, or the tensor of each layer, that it is there.

    Attributes:
      ours: path in the parameter tree, joined by dots.
      theirs: Hugging Face's name; `{layer}` stands for the layer's number where there is one tensor a layer.
      our_axes: the layout of one layer's slice here.
      their_axes: the layout there.
      flag: the field of `ModelConfig` that says whether a model has it; empty where every model has.
    """

    ours: str
    theirs: str
    our_axes: str
    their_axes: str
    flag: str = ""

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor a layer."""
        return "{layer}" in self.theirs

    def names(self, config: ModelConfig) -> Iterator[str]:
        """Hugging Face's names, layer by layer."""
        if not self.stacked:
            yield self.theirs
        for layer in range(config.num_layers if self.stacked else 0):
            yield self.theirs.format(layer=layer)

    def their_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of one tensor there, its vocabulary not padded."""
        sizes = _sizes(config)
        return tuple(math.prod(sizes[letter] for letter in word) for word in self.their_axes.split())

    def our_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of one layer's slice here, its vocabulary padded."""
        sizes = _sizes(config) | {"V": config.padded_vocab_size}
        return tuple(sizes[letter] for letter in self.our_axes.split())

    def to_ours(self, tensor: np.ndarray, config: ModelConfig) -> np.ndarray:
        """One layer's slice here, `our_shape`, from one tensor there, `their_shape`; a view where nothing is padded."""
        sizes = _sizes(config)
        theirs, ours = self.their_axes.replace(" ", ""), self.our_axes.split()
        unfolded = tensor.reshape([sizes[letter] for letter in theirs])
        result = unfolded.transpose([theirs.index(letter) for letter in ours])
        missing = [(0, wanted - has) for wanted, has in zip(self.our_shape(config), result.shape, strict=True)]
        return np.pad(result, missing) if any(after for _, after in missing) else result

    def to_theirs(self, slice_: np.ndarray, config: ModelConfig) -> np.ndarray:
        """The inverse of `to_ours`: the padding of the vocabulary is cut."""
        sizes = _sizes(config)
        theirs, ours = self.their_axes.replace(" ", ""), self.our_axes.split()
        cut = slice_[tuple(slice(sizes[letter]) for letter in ours)]
        return cut.transpose([ours.index(letter) for letter in theirs]).reshape(self.their_shape(config))


_LAYER = "model.layers.{layer}"
_TABLE = (
    Correspondence("embedding", "model.embed_tokens.weight", "V D", "V D"),
    Correspondence("layers.attention_norm.scale", f"{_LAYER}.input_layernorm.weight", "D", "D"),
    Correspondence("layers.attention.query", f"{_LAYER}.self_attn.q_proj.weight", "D H Q", "HQ D"),
    Correspondence("layers.attention.key", f"{_LAYER}.self_attn.k_proj.weight", "D K Q", "KQ D"),
    Correspondence("layers.attention.value", f"{_LAYER}.self_attn.v_proj.weight", "D K Q", "KQ D"),
    Correspondence("layers.attention.output", f"{_LAYER}.self_attn.o_proj.weight", "H Q D", "D HQ"),
    Correspondence("layers.attention.query_bias", f"{_LAYER}.self_attn.q_proj.bias", "H Q", "HQ", "qkv_bias"),
    Correspondence("layers.attention.key_bias", f"{_LAYER}.self_attn.k_proj.bias", "K Q", "KQ", "qkv_bias"),
    Correspondence("layers.attention.value_bias", f"{_LAYER}.self_attn.v_proj.bias", "K Q", "KQ", "qkv_bias"),
    Correspondence("layers.attention.output_bias", f"{_LAYER}.self_attn.o_proj.bias", "D", "D", "output_bias"),
    Correspondence("layers.attention.query_norm.scale", f"{_LAYER}.self_attn.q_norm.weight", "Q", "Q", "qk_norm"),
    Correspondence("layers.attention.key_norm.scale", f"{_LAYER}.self_attn.k_norm.weight", "Q", "Q", "qk_norm"),
    Correspondence("layers.mlp_norm.scale", f"{_LAYER}.post_attention_layernorm.weight", "D", "D"),
    Correspondence("layers.mlp.gate", f"{_LAYER}.mlp.gate_proj.weight", "D F", "F D"),
    Correspondence("layers.mlp.up", f"{_LAYER}.mlp.up_proj.weight", "D F", "F D"),
    Correspondence("layers.mlp.down", f"{_LAYER}.mlp.down_proj.weight", "F D", "D F"),
    Correspondence("layers.mlp.gate_bias", f"{_LAYER}.mlp.gate_proj.bias", "F", "F", "mlp_bias"),
    Correspondence("layers.mlp.up_bias", f"{_LAYER}.mlp.up_proj.bias", "F", "F", "mlp_bias"),
    Correspondence("layers.mlp.down_bias", f"{_LAYER}.mlp.down_proj.bias", "D", "D", "mlp_bias"),
    Correspondence("final_norm.scale", "model.norm.weight", "D", "D"),
    Correspondence("head", "lm_head.weight", "D V", "V D"),
)
EMBEDDING, HEAD = _TABLE[0], _TABLE[-1]


def correspondences(config: ModelConfig) -> tuple[Correspondence, ...]:
    """The table's rows for a model; a tied one has no head of its own."""
    rows = (row for row in _TABLE if not row.flag or getattr(config, row.flag))
    return tuple(row for row in rows if not (row is HEAD and config.tied_embeddings))


def tensors_in_order(config: ModelConfig) -> Iterator[tuple[Correspondence, int | None, str]]:
    """Every tensor as (row, layer, Hugging Face's name), in the order in which files hold them: layer by layer.

    The layer is None where the row has no layers.
    """
    rows = correspondences(config)
    first_layered = next(index for index, row in enumerate(rows) if row.stacked)
    for row in rows[:first_layered]:
        yield row, None, row.theirs
    for layer in range(config.num_layers):
        for row in rows:
            if row.stacked:
                yield row, layer, row.theirs.format(layer=layer)
    for row in rows[first_layered:]:
        if not row.stacked:
            yield row, None, row.theirs


def _sizes(config: ModelConfig) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "H": config.num_heads,
        "K": config.num_kv_heads,
        "Q": config.head_dim,
        "F": config.intermediate_size,
    }
