"""Counts the matrix products of a traced program: what was recomputed and what was padded is counted too."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

# Library kernels for attention: matrix products over pairs of query and key that each takes (Dao 2023,
# https://arxiv.org/abs/2307.08691: two forward, five backward; splash attention's backward makes two of them twice).
_ATTENTION_KERNELS = {"fwd": 2, "bwd": 5, "dq": 3, "dkv": 4}


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs over all devices, two for each multiplication and addition.

    Attributes:
      products: of the program's own matrix products.
      attention: of those within library kernels for attention.
    """

    products: float
    attention: float


def matrix_flops(traced: Any, open_loops: float) -> Flops:
    """The matrix products of a step.

    Args:
      traced: `jax.stages.Traced`, its shapes global.
      open_loops: how often a loop runs whose end is known only at run time.
    """
    return _sum(_flops(traced.jaxpr.jaxpr, open_loops, 1.0))


def _sum(parts: Iterator[Flops]) -> Flops:
    found = list(parts)
    return Flops(sum(one.products for one in found), sum(one.attention for one in found))


def _flops(jaxpr: Any, open_loops: float, times: float) -> Iterator[Flops]:
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            yield Flops(times * _dot(equation), 0.0)
        elif name == "scan":
            yield from _flops(parameters["jaxpr"].jaxpr, open_loops, times * parameters["length"])
        elif name == "while":
            yield from _flops(parameters["body_jaxpr"].jaxpr, open_loops, times * open_loops)
        elif name == "cond":
            branches = [_sum(_flops(branch.jaxpr, open_loops, times)) for branch in parameters["branches"]]
            yield max(branches, key=lambda one: one.products + one.attention)
        elif products := _attention_products(equation):
            yield Flops(0.0, times * products * _pairs(equation))
        elif name == "shard_map":  # its inside is what one device does
            devices = math.prod(parameters["mesh"].shape.values())
            yield from _flops(parameters["jaxpr"], open_loops, times * devices)
        else:
            for inner in _inner(parameters):
                yield from _flops(inner, open_loops, times)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _attention_products(equation: Any) -> int:
    """How many products of queries' and keys' size a fused attention kernel makes; 0 for anything else."""
    name = equation.primitive.name
    if name == "pallas_call":
        name = str(equation.params.get("name_and_src_info", equation.params.get("name", "")))
    elif not name.startswith("dot_product_attention"):
        return 0
    return next((products for part, products in _ATTENTION_KERNELS.items() if part in name), 0)


def _pairs(equation: Any) -> float:
    """FLOPs of one product of queries and keys: 2 × rows × heads × queries × keys × head dimension, half if causal.

    A window is not looked at: what it would save is counted. Splash attention is causal here, as `model` has no other.
    """
    shapes = [
        variable.aval.shape
        for variable in equation.invars
        if len(variable.aval.shape) >= 3 and jnp.issubdtype(variable.aval.dtype, jnp.floating)
    ]
    query, key = shapes[:2]
    mask_type = equation.params.get("mask_type")
    # cuDNN's operands are [rows, length, heads, head dimension], those of splash attention [rows, heads, length, …].
    length = key[-2] if mask_type is None else key[1]
    is_causal = mask_type is None or "CAUSAL" in mask_type.name
    return 2.0 * math.prod(query) * length / (2 if is_causal else 1)


def _inner(parameters: dict[str, Any]) -> list[Any]:
    """The programs within an equation: those called, mapped or differentiated in its own way."""
    found = []
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = parameters.get(key)
        if inner is not None:
            found.append(getattr(inner, "jaxpr", inner))
    return found
