"""Weights as whole numbers of eight bits, with one factor for each output channel.

Symmetric: w ≈ factor × values, where a channel's factor is its largest magnitude / 127, so that zero stays zero and no
value is cut off. A matrix is widened where it is used, a layer (or a part of the vocabulary) at a time.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from alpaca_jax.parallel.sharding import gather

_MOST = 127

# Of each matrix: the axes that its product sums over, counted from the last. All others are output channels.
_SUMMED = {
    ("vocab", "embed"): (-1,),
    ("embed", "vocab"): (-2,),
    ("embed", "heads", "head_dim"): (-3,),
    ("embed", "kv_heads", "head_dim"): (-3,),
    ("heads", "head_dim", "embed"): (-3, -2),
    ("embed", "mlp"): (-2,),
    ("mlp", "embed"): (-2,),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A matrix, or a stack of matrices.

    Attributes:
      values: int8, of the matrix's shape.
      factors: float32, of the same shape but for 1 along the axes that a product sums over.
      dtype: what it is widened to.
    """

    values: Any
    factors: Any
    dtype: DTypeLike = dataclasses.field(metadata={"static": True})

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.values.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.values.shape

    def __getitem__(self, index: Any) -> "Quantised":
        """Some of its rows, or of its layers."""
        return Quantised(self.values[index], self.factors[index], self.dtype)

    def gathered(self, logical_axes: tuple[str, ...], dtype: DTypeLike) -> jax.Array:
        """The matrix in a type, brought together for its use as `sharding.gather` does it, in eight bits."""
        factor_axes = tuple(
            name if size != 1 else "norm" for name, size in zip(logical_axes, self.factors.shape, strict=True)
        )
        factors = gather(self.factors, factor_axes)
        return (gather(self.values, logical_axes).astype(jnp.float32) * factors).astype(dtype)


def is_matrix(logical_axes: tuple[str, ...]) -> bool:
    """Whether a parameter of these axes, a stack's first not counted, is one that can be quantised."""
    return _without_layers(logical_axes) in _SUMMED


def quantise(weight: jax.Array, logical_axes: tuple[str, ...], dtype: DTypeLike) -> Quantised:
    """The nearest whole numbers of a matrix; `dtype` is what it will be widened to."""
    summed = _SUMMED[_without_layers(logical_axes)]
    exact = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(exact), axis=summed, keepdims=True)
    factors = jnp.where(largest > 0, largest / _MOST, 1.0)
    return Quantised(jnp.round(exact / factors).astype(jnp.int8), factors, jnp.dtype(dtype))


def _without_layers(logical_axes: tuple[str, ...]) -> tuple[str, ...]:
    return logical_axes[1:] if logical_axes[:1] == ("layers",) else logical_axes
