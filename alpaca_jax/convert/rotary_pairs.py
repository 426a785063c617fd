"""The two orders in which a head's channels are paired for the rotary embedding."""

import numpy as np

from alpaca_jax.model.config import ModelConfig


def in_rotary_halves(name: str, tensor: np.ndarray, model: ModelConfig) -> np.ndarray:
    """A tensor of Meta's or of a llama GGUF in Hugging Face's order; all but queries' and keys' are so already.

    Their rows [heads × Q, D] come with pairs (2i, 2i + 1) in each head and are put into pairs (i, i + Q/2).

    Args:
      name: Hugging Face's name of the tensor.
      tensor: the tensor.
      model: tells how many heads there are.
    """
    if name.endswith("self_attn.q_proj.weight"):
        heads = model.num_heads
    elif name.endswith("self_attn.k_proj.weight"):
        heads = model.num_kv_heads
    else:
        return tensor
    pairs = tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, tensor.shape[1])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
