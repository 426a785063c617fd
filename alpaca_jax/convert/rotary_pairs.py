"""The two orders in which a head's channels are paired for the rotary embedding."""

import numpy as np


def split_rotary_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads × Q, D] with pairs (2i, 2i + 1), as Meta and llama GGUFs have them, put into pairs (i, i + Q/2)."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
