"""What the backward pass keeps, where, and what it computes again, by name.

Whatever the name, weights that were gathered over the mesh are never kept: they would fill every device with the whole
model. They are gathered again.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from alpaca_jax.support.program import refuse_unknown


def _all_but_gathered(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Keeps everything but what `sharding.constrain` and `sharding.gather` give: they copy what is kept already."""
    inner = parameters.get("call_jaxpr")
    if inner is None:
        return primitive.name != "sharding_constraint"
    return not {equation.primitive.name for equation in inner.eqns} <= {"convert_element_type", "sharding_constraint"}


# What `keep` gives its arrays as a name.
_KEPT = "kept"

# From the most memory and the least work to the opposite.
POLICIES: dict[str, Any] = {
    "none": _all_but_gathered,
    # Keeps the outputs of matrix products, and what `keep` marks.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(_KEPT),
    ),
    # As "dots", but in the host's memory; XLA moves them there and back beside the arithmetic.
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "full": jax.checkpoint_policies.nothing_saveable,  # keeps each layer's input alone
}


def keep(array: jax.Array) -> jax.Array:
    """Marks what "dots" keeps although JAX does not see that a matrix product made it, as inside a `custom_vjp`."""
    return checkpoint_name(array, _KEPT)


def rematerialise(layer: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`layer` under the policy of that name.

    Raises:
      UserError: no such policy.
    """
    if name not in POLICIES:
        refuse_unknown(name, list(POLICIES), "config.model.remat")
    return jax.checkpoint(layer, policy=POLICIES[name], prevent_cse=False)
