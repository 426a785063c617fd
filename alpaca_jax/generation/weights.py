"""Weights in the form that answers fastest, made leaf by leaf so that no second copy ever lies beside them.

Making one token reads every weight once, and little else counts. A scan over stacked layers first copies each layer's
weights out of the stack, which triples what is read and written; so layers are taken apart. Eight-bit weights stay
stacked: they are widened in the place of that copy, so that it costs nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.model.quantised import Quantised, is_matrix, quantise

INT8 = "int8"


class Form(NamedTuple):
    """What is to be known of parameters before anything is computed.

    Attributes:
      dtype: the type to compute in.
      stacked: whether the layers are stacked.
    """

    dtype: jnp.dtype
    stacked: bool


def form_of(parameters: Parameters) -> Form:
    """The form of some parameters."""
    layers = jax.tree.leaves(parameters["layers"], is_leaf=_is_whole)
    return Form(jnp.dtype(parameters["embedding"].dtype), not isinstance(layers[0], tuple))


def separate_layers(parameters: Parameters, definition: Definition) -> Parameters:
    """Each stack of layers as a tuple of these; the arrays given are used up."""

    @jax.jit
    def part(stack: jax.Array, number: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(stack, number, keepdims=False)

    def separate(stack: jax.Array) -> tuple[jax.Array, ...]:
        over = stack.sharding
        place = NamedSharding(over.mesh, PartitionSpec(*over.spec[1:])) if isinstance(over, NamedSharding) else over
        layers = tuple(jax.device_put(part(stack, number), place) for number in range(definition.config.num_layers))
        jax.block_until_ready(layers)
        stack.delete()
        return layers

    return parameters | {"layers": _leaf_by_leaf(separate, parameters["layers"])}


def quantise_all(parameters: Parameters, definition: Definition) -> Parameters:
    """Each matrix `Quantised`, norms and biases as they were; the arrays given are used up."""
    program = jax.jit(quantise, static_argnames=("logical_axes", "dtype"))

    def change(leaf: jax.Array, axes: tuple[str, ...]) -> Any:
        if not is_matrix(axes):
            return leaf
        made = jax.block_until_ready(program(leaf, axes, str(leaf.dtype)))
        leaf.delete()
        return made

    return _leaf_by_leaf(change, parameters, definition.logical_axes)


def _leaf_by_leaf(change: Callable[..., Any], *trees: Any) -> Any:
    """`jax.tree.map`, which lets go of each leaf of the first tree as it goes on."""
    first, *others = trees
    if not isinstance(first, dict):
        return change(first, *others)
    return {name: _leaf_by_leaf(change, first[name], *(other[name] for other in others)) for name in first}


def _is_whole(value: Any) -> bool:
    return isinstance(value, (tuple, Quantised))
