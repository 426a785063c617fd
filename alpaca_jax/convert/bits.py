"""The bits of a tensor: to hash, to compare, and to look for what is no number."""

import ml_dtypes
import numpy as np

from alpaca_jax.support.hashing import sha256_bytes

# The types that models are published in, by their names in our own files.
FLOATS: dict[str, np.dtype] = {
    str(dtype): dtype for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32))
}
_UNSIGNED: dict[int, np.dtype] = {2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}
_BLOCK = 2**18  # numbers looked at together: few enough to stay in the processor's cache
# The exponent's bits; all of them are set in NaN and infinity, and in no other number.
_EXPONENTS: dict[np.dtype, np.unsignedinteger] = {
    np.dtype(np.float32): np.uint32(0x7F80_0000),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}


def unsigned_type(dtype: np.dtype) -> np.dtype:
    """The unsigned type as wide as a 16- or 32-bit type."""
    return _UNSIGNED[dtype.itemsize]


def as_bytes(array: np.ndarray) -> np.ndarray:
    """The array's bytes [n] in C order; a view where they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def sha256_tensor(array: np.ndarray) -> str:
    """Hexadecimal SHA-256 of the array's bytes in C order; Python's lock is free meanwhile."""
    return sha256_bytes(memoryview(as_bytes(array)))


def is_finite(array: np.ndarray) -> bool:
    """Whether no number of a float32, float16 or bfloat16 array is NaN or infinite.

    By bits: on bfloat16, numpy's own test is slower and warns of signalling NaN.
    """
    exponent = _EXPONENTS[array.dtype]
    bits = array.reshape(-1).view(unsigned_type(array.dtype))
    blocks = (bits[start : start + _BLOCK] for start in range(0, bits.size, _BLOCK))
    return not any(((block & exponent) == exponent).any() for block in blocks)
