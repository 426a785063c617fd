"""The types that numbers are kept in, and how float32 results get into bfloat16 without a bias."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32

from alpaca_jax.model.definition import Parameters


def cast(tree: Any, dtype: Any) -> Any:
    """Every array of a tree in that type, rounded to the nearest where it is narrower."""
    return jax.tree.map(lambda array: array.astype(dtype), tree)


def kept(parameters: Parameters, dtype: str, seed: int, update: jax.Array) -> Parameters:
    """Updated float32 parameters in the type in which they are kept.

    Args:
      parameters: float32.
      dtype: float32 leaves them; bfloat16 rounds stochastically.
      seed: of the run.
      update: the number of this update. The noise is a function of it, of the seed and of the parameter alone, so that
        it is the same on every mesh, and after a restart.
    """
    if dtype == "float32":
        return parameters
    leaves, structure = jax.tree.flatten(parameters)
    key = jax.random.fold_in(jax.random.key(seed), update)
    rounded = [round_stochastically(leaf, jax.random.fold_in(key, index)) for index, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, rounded)


def round_stochastically(numbers: Float32[Array, "*any"], key: jax.Array) -> BFloat16[Array, "*any"]:
    """One of the two bfloat16 neighbours of each number, the nearer one more often, so that their mean is the number.

    To the nearest, an update of less than half a step of bfloat16 (1/256 to 1/512 of the weight) would always be lost;
    so it is made in some updates, as often as it is large (Zamirai et al. 2020, https://arxiv.org/abs/2010.06192).

    bfloat16 is the upper half of float32. A number whose lower half is r of 2¹⁶ lies that far on the way to the
    neighbour away from zero: a uniform 16-bit number added to the lower half carries with probability r / 2¹⁶, and then
    the lower half is cut off. Numbers that bfloat16 holds have r = 0 and stay. Carrying in the integers holds across
    powers of two and for subnormal numbers, too; but the largest finite numbers must not carry into infinity.
    """
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    noise = jax.random.bits(key, numbers.shape, jnp.uint16).astype(jnp.uint32)
    infinity, magnitude = jnp.uint32(0x7F80_0000), jnp.uint32(0x7FFF_FFFF)
    carried = bits + noise
    carried = jnp.where(carried & magnitude >= infinity, bits, carried)
    # Infinities stay, and so do those that are not a number, whatever bits say so.
    rounded = jax.lax.bitcast_convert_type((carried >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(bits & magnitude > infinity, jnp.bfloat16(jnp.nan), rounded)
