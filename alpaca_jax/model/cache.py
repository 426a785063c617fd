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

_AXES = ("layers", "batch", "activation_heads", "whole_sequence", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers; slot s holds the token at position s.

    Each is one array [N, B, K, S, Q] where the layers' parameters are stacked, and a tuple of N arrays [B, K, S, Q]
    where these are apart: no layer's part is then ever copied. Heads come before slots, so that attention's products
    read a head's keys as they lie.
    """

    # Any: JAX rebuilds the class with whatever takes an array's place in a tree.
    keys: Any
    values: Any

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, slots: int, dtype: DTypeLike, stacked: bool = True) -> "KVCache":
        """A cache for `batch` sequences of up to `slots` tokens."""
        shape = (batch, config.num_kv_heads, slots, config.head_dim)

        def zeros() -> Any:
            if stacked:
                return jnp.zeros((config.num_layers, *shape), dtype)
            return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

        return cls(zeros(), zeros()).laid_out()

    @property
    def stacked(self) -> bool:
        """Whether the layers are stacked in one array."""
        return not isinstance(self.keys, tuple)

    @property
    def slots(self) -> int:
        """How many tokens a row has room for."""
        return jax.tree.leaves(self.keys)[0].shape[-2]

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the numbers."""
        return jax.tree.leaves(self.keys)[0].dtype

    def laid_out(self) -> "KVCache":
        """The same, rows and heads split over the mesh as activations are; outside a mesh it does nothing."""
        return self._each(lambda x: constrain(x, *_AXES[-x.ndim :]))

    def write(
        self,
        layer: Int[Array, ""] | int,
        k_BLKQ: Float[Array, "B L K Q"],
        v_BLKQ: Float[Array, "B L K Q"],
        positions_BL: Int[Array, "B L"],
    ) -> "KVCache":
        """New keys and values of one layer put into the slots of their positions; those beyond the last are dropped."""
        rows_B1 = jnp.arange(positions_BL.shape[0])[:, None]

        def put(whole: Any, new_BLKQ: Array) -> Any:
            new_BLKQ = new_BLKQ.astype(self.dtype)
            if self.stacked:
                return whole.at[layer, rows_B1, :, positions_BL].set(new_BLKQ)
            return (*whole[:layer], whole[layer].at[rows_B1, :, positions_BL].set(new_BLKQ), *whole[layer + 1 :])

        return KVCache(put(self.keys, k_BLKQ), put(self.values, v_BLKQ))

    def layer(self, layer: Int[Array, ""] | int) -> tuple[Float[Array, "B K S Q"], Float[Array, "B K S Q"]]:
        """The keys and the values of one layer."""
        return self.keys[layer], self.values[layer]

    def resized(self, slots: int) -> "KVCache":
        """The same with room for more tokens or for fewer, whose slots beyond are lost."""
        more = (0, max(slots - self.slots, 0))
        return self._each(lambda x: jnp.pad(x[..., :slots, :], [*[(0, 0)] * (x.ndim - 2), more, (0, 0)])).laid_out()

    def with_rows(self, other: "KVCache", rows_R: Int[Array, "R"]) -> "KVCache":
        """Rows of another cache, of no more slots, put in; row numbers that this one has not got are passed over."""

        def put(mine: Array, theirs: Array) -> Array:
            return mine.at[..., rows_R, :, : theirs.shape[-2], :].set(theirs)

        return jax.tree.map(put, self, other).laid_out()

    def _each(self, change: Callable[[Array], Array]) -> "KVCache":
        return jax.tree.map(change, self)
