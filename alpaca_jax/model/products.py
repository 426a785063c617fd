"""Products in the form and the precision in which the devices of the mesh in use are fast.

The compiler for CPUs, left alone with the gradients of products of activations by weights, turns the whole cotangent
over before it multiplies it into the gradient of the weight, computing it again number by number; and it does not heed
`jax.default_matmul_precision`. So a CPU is told how to multiply. Compilers for accelerators know better; for them a
product is what it is.

Of a step of SmolLM2-135M in float32, 2 rows of 512, on two cores, these and the gradients in `attention.py` save 30% of
the processors' time.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alpaca_jax.model.rematerialisation import keep

# JAX's name for products of numbers rounded to bfloat16, summed in float32.
_BFLOAT16_FACTORS = "BF16_BF16_F32"


def factors(*arrays: Array) -> tuple[Array, ...]:
    """What is to be multiplied, rounded where `jax.default_matmul_precision` asks for it and the compiler would not.

    Products of them must say `preferred_element_type=jnp.float32`, or their sums would be rounded too.
    """
    wanted = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if wanted == _BFLOAT16_FACTORS and _is_on_cpu():
        return tuple(array.astype(jnp.bfloat16) for array in arrays)
    return arrays


def product(x: Float[Array, "..."], weight: Float[Array, "..."], contracted: int = 1) -> Float[Array, "..."]:
    """Products of activations by a weight, in the type of both.

    Args:
      x: [rows, positions, …].
      weight: […, …].
      contracted: how many axes are summed over, the last of `x` and the first of `weight`.
    """
    return keep(_on_cpu(contracted, x, weight)) if _is_on_cpu() else jnp.tensordot(x, weight, contracted)


def _is_on_cpu() -> bool:
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "cpu"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_cpu(contracted: int, x: Array, weight: Array) -> Array:
    tokens = x.ndim - contracted
    return sum_of_products(x, range(tokens, x.ndim), weight, range(contracted), x.dtype)


def _forward(contracted: int, x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _on_cpu(contracted, x, weight), (x, weight)


def _backward(contracted: int, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    tokens = range(x.ndim - contracted)
    d_x = sum_of_products(gradient, range(len(tokens), gradient.ndim), weight, range(contracted, weight.ndim), x.dtype)
    # The compiler turns over what stands first, so the smaller stands there.
    if math.prod(x.shape) <= math.prod(gradient.shape):
        return d_x, sum_of_products(x, tokens, gradient, tokens, weight.dtype)
    d_turned = sum_of_products(gradient, tokens, x, tokens, weight.dtype)
    # It would put them back in their order, did it see that only the result is turned over.
    d_turned = jax.lax.optimization_barrier(d_turned)
    outputs = gradient.ndim - len(tokens)
    return d_x, jnp.transpose(d_turned, (*range(outputs, d_turned.ndim), *range(outputs)))


_on_cpu.defvjp(_forward, _backward)


def sum_of_products(
    a: Float[Array, "..."], axes_of_a: Sequence[int], b: Float[Array, "..."], axes_of_b: Sequence[int], dtype: Any
) -> Float[Array, "..."]:
    """Sums of products over the first or the last axes of two arrays.

    Args:
      a: one factor; its other axes come first in what is returned.
      axes_of_a: consecutive, the first or the last of `a`.
      b: the other factor.
      axes_of_b: of the same sizes as `axes_of_a`.
      dtype: of the sums, which are made in float32 where factors are rounded.
    """
    a, b = factors(a, b)
    if a.dtype != jnp.bfloat16 or not _is_on_cpu():
        return jax.lax.dot_general(a, b, ((tuple(axes_of_a), tuple(axes_of_b)), ((), ())), preferred_element_type=dtype)
    if axes_of_a[0] == 0:
        # The compiler is fast with numbers in bfloat16 only where what is summed over stands last in the first factor.
        a = jax.lax.optimization_barrier(jnp.transpose(a, (*range(len(axes_of_a), a.ndim), *axes_of_a)))
        axes_of_a = range(a.ndim - len(axes_of_a), a.ndim)
    over = (tuple(axes_of_a), tuple(axes_of_b)), ((), ())
    return jax.lax.dot_general(a, b, over, preferred_element_type=jnp.float32).astype(dtype)
