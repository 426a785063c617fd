"""What the backward pass keeps and what it computes again, by name."""

from collections.abc import Callable
from typing import Any

import jax

from alpaca_jax.support.program import refuse_unknown

# From the most memory and the least work to the opposite.
POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keeps the outputs of matrix products
    "full": jax.checkpoint_policies.nothing_saveable,  # keeps each layer's input alone
}


def rematerialise(layer: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`layer` under the policy of that name.

    Raises:
      UserError: no such policy.
    """
    if name not in POLICIES:
        refuse_unknown(name, list(POLICIES), "config.model.remat")
    return layer if name == "none" else jax.checkpoint(layer, policy=POLICIES[name], prevent_cse=False)
