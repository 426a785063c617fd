"""What the tests of weight diffs share: models of random bits, and files that are read, or damaged, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tiny_llama import CONFIG, random_tensors

from alpaca_jax.convert.bits import is_finite, unsigned_type
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.names import correspondences


def random_model(dtype: Any, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Random tensors of the tiny model with changes to its description."""
    model, rng = read_model_config(CONFIG | changes, "config.json"), np.random.default_rng(seed)
    rows = [(name, row.their_shape(model)) for row in correspondences(model) for name in row.names(model)]
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in rows}


def random_bits(dtype: Any, seed: int) -> dict[str, np.ndarray]:
    """The tiny model with random bits, all finite; each tensor begins with 0, −0 and two subnormal numbers."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, like in random_tensors(dtype).items():
        kind = unsigned_type(like.dtype)
        bits = rng.integers(0, np.iinfo(kind).max, like.shape, kind, endpoint=True)
        sign = kind.type(1 << (8 * kind.itemsize - 1))
        with np.errstate(invalid="ignore"):
            bits[~np.isfinite(bits.view(like.dtype).astype(np.float64))] &= sign
        bits.reshape(-1)[:4] = 0, sign, 1, sign + 7
        tensors[name] = bits.view(like.dtype)
        assert is_finite(tensors[name])
    return tensors


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder's safetensors."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def flip_bit(folder: Path, tensor: str) -> None:
    """Flips the lowest bit of a tensor's last number in the file that holds it."""
    for file in folder.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        entry = json.loads(content[8:start]).get(tensor)
        if entry is not None:
            last = start + entry["data_offsets"][1] - {"F32": 4, "U32": 4}.get(entry["dtype"], 2)
            content[last] ^= 1
            file.write_bytes(content)
            return
    raise LookupError(tensor)
