"""The key-value cache: what earlier tokens left for later ones to attend to.

N layers, B batch, S slots, L new tokens, K key-value heads, Q head dimension.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.parallel.sharding import constrain

_KEY_AXES = ("layers", "batch", "activation_heads", "head_dim", "whole_sequence")
_VALUE_AXES = ("layers", "batch", "activation_heads", "whole_sequence", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers; slot s holds the token at position s.

    Keys are one array [N, B, K, Q, S] and values one [N, B, K, S, Q] where the layers' parameters are stacked. Where
    these are apart, each is a tuple of N arrays: no layer's part is then ever copied. In either, what attention sums
    over stands before what it gives, as a CPU would else turn all keys over for every token.
    """

    # Any: JAX rebuilds the class with whatever takes an array's place in a tree.
    keys: Any
    values: Any

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, slots: int, dtype: DTypeLike, stacked: bool = True) -> "KVCache":
        """A cache for `batch` sequences of up to `slots` tokens."""

        def zeros(*of_a_head: int) -> Any:
            shape = (batch, config.num_kv_heads, *of_a_head)
            if stacked:
                return jnp.zeros((config.num_layers, *shape), dtype)
            return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

        return cls(zeros(config.head_dim, slots), zeros(slots, config.head_dim)).laid_out()

    @property
    def stacked(self) -> bool:
        """Whether the layers are stacked in one array."""
        return not isinstance(self.keys, tuple)

    @property
    def slots(self) -> int:
        """How many tokens a row has room for."""
        return jax.tree.leaves(self.keys)[0].shape[-1]

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the numbers."""
        return jax.tree.leaves(self.keys)[0].dtype

    def laid_out(self) -> "KVCache":
        """The same, rows and heads split over the mesh as activations are; outside a mesh it does nothing."""
        return self._each(
            lambda keys: constrain(keys, *_KEY_AXES[-keys.ndim :]),
            lambda values: constrain(values, *_VALUE_AXES[-values.ndim :]),
        )

    def write(
        self,
        layer: Int[Array, ""] | int,
        k_BLKQ: Float[Array, "B L K Q"],
        v_BLKQ: Float[Array, "B L K Q"],
        positions_BL: Int[Array, "B L"],
    ) -> "KVCache":
        """New keys and values of one layer put into the slots of their positions; those beyond the last are dropped."""
        rows_B1 = jnp.arange(positions_BL.shape[0])[:, None]
        slot_of_keys = rows_B1, slice(None), slice(None), positions_BL
        slot_of_values = rows_B1, slice(None), positions_BL

        def put(whole: Any, slot: tuple[Any, ...], new_BLKQ: Array) -> Any:
            new_BLKQ = new_BLKQ.astype(self.dtype)
            if self.stacked:
                return whole.at[layer, *slot].set(new_BLKQ)
            return (*whole[:layer], whole[layer].at[slot].set(new_BLKQ), *whole[layer + 1 :])

        return KVCache(put(self.keys, slot_of_keys, k_BLKQ), put(self.values, slot_of_values, v_BLKQ))

    def layer(self, layer: Int[Array, ""] | int) -> tuple[Float[Array, "B K Q S"], Float[Array, "B K S Q"]]:
        """The keys and the values of one layer."""
        return self.keys[layer], self.values[layer]

    def resized(self, slots: int) -> "KVCache":
        """The same with room for more tokens or for fewer, whose slots beyond are lost."""
        more = (0, max(slots - self.slots, 0))

        def padded(x: Array, slot_axis: int) -> Array:
            return jnp.pad(x, [more if axis == x.ndim + slot_axis else (0, 0) for axis in range(x.ndim)])

        return self._each(
            lambda keys: padded(keys[..., :slots], -1), lambda values: padded(values[..., :slots, :], -2)
        ).laid_out()

    def with_rows(self, other: "KVCache", rows_R: Int[Array, "R"]) -> "KVCache":
        """Rows of another cache, of no more slots, put in; row numbers that this one has not got are passed over."""
        slots = other.slots
        return KVCache(
            jax.tree.map(lambda x, new: x.at[..., rows_R, :, :, :slots].set(new), self.keys, other.keys),
            jax.tree.map(lambda x, new: x.at[..., rows_R, :, :slots, :].set(new), self.values, other.values),
        ).laid_out()

    def _each(self, of_keys: Callable[[Array], Array], of_values: Callable[[Array], Array]) -> "KVCache":
        return KVCache(jax.tree.map(of_keys, self.keys), jax.tree.map(of_values, self.values))
