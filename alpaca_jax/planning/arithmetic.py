"""Counts the matrix products of a traced program: what was recomputed and what was padded is counted too."""

import math
from typing import Any

# Library kernels: matrix products over pairs of query and key that each takes (Dao 2023,
# https://arxiv.org/abs/2307.08691: two forward, five backward). Half of the pairs are above the diagonal and left out.
_ATTENTION_KERNELS = {"fwd": 2, "bwd": 5, "dq": 3, "dkv": 4}


def matrix_flops(traced: Any, open_loops: float) -> float:
    """FLOPs of all matrix products of a step, over all devices: two for each multiplication and addition.

    Args:
      traced: `jax.stages.Traced`, its shapes global.
      open_loops: how often a loop runs whose end is known only at run time.
    """
    return _flops(traced.jaxpr.jaxpr, open_loops)


def _flops(jaxpr: Any, open_loops: float) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _dot(equation)
        elif name == "scan":
            total += parameters["length"] * _flops(parameters["jaxpr"].jaxpr, open_loops)
        elif name == "while":
            total += open_loops * _flops(parameters["body_jaxpr"].jaxpr, open_loops)
        elif name == "cond":
            total += max(_flops(branch.jaxpr, open_loops) for branch in parameters["branches"])
        elif products := _attention_products(equation):
            total += products * _pairs(equation)
        elif name == "shard_map":  # its inside is what one device does
            total += math.prod(parameters["mesh"].shape.values()) * _flops(parameters["jaxpr"], open_loops)
        else:
            total += sum(_flops(inner, open_loops) for inner in _inner(parameters))
    return total


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _attention_products(equation: Any) -> int:
    """How many products of queries' and keys' size a fused attention kernel makes; 0 for anything else."""
    name = equation.primitive.name
    if name == "pallas_call":
        name = str(equation.params.get("name_and_src_info", equation.params.get("name", "")))
    elif "dot_product_attention" not in name:
        return 0
    return next((products for part, products in _ATTENTION_KERNELS.items() if part in name), 0)


def _pairs(equation: Any) -> float:
    """2 × batch × heads × queries × keys × head dimension / 2, from the largest operand of each kind."""
    shapes = [variable.aval.shape for variable in equation.invars]
    query = max((shape for shape in shapes if len(shape) >= 3), key=math.prod)
    length, size = sorted(query[-3:-1] if len(query) == 3 else query[1:3])[-1], query[-1]
    return float(math.prod(query) * length) if size else 0.0


def _inner(parameters: dict[str, Any]) -> list[Any]:
    """The programs within an equation: those called, mapped or differentiated in its own way."""
    found = []
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = parameters.get(key)
        if inner is not None:
            found.append(getattr(inner, "jaxpr", inner))
    return found
