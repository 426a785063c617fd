"""A small vocabulary in the form of LLaMA 3's `tokenizer.model`: tokens in base 64 with their ranks."""

import base64
import collections
import functools
import itertools
import re
from pathlib import Path

_TEXTS = [
    "The quick brown fox jumps over the lazy dog, and they're not what we'd seen in 1984, 20,000 leagues below.",
    "import numpy as np\n\n\ndef mean(values):\n    return sum(values) / len(values)\n",
    "Photosynthesis is the process by which plants turn light into chemical energy; it's the theme of these theories.",
    "Les élèves étaient là où naïveté et café se mêlent; Zürich, Привет мир, 東京東京 и ещё раз привет.",
    "aaaa aaaaaaa aaa    spaces\t\ttabs\r\n\r\nlines    \n\n\n 1 12 123 1234 12345 ... --- !!! ???",
]


@functools.cache
def ranks() -> dict[bytes, int]:
    """The 256 bytes, then what byte-pair encoding of a few texts joins, then a few by hand: token to rank."""
    words = [[bytes([byte]) for byte in word.encode()] for text in _TEXTS for word in re.findall(r" ?\w+|\W+", text)]
    tokens = {bytes([byte]): byte for byte in range(256)}
    for _ in range(250):
        pairs = collections.Counter(pair for word in words for pair in itertools.pairwise(word))
        left, right = pairs.most_common(1)[0][0]
        tokens.setdefault(left + right, len(tokens))
        for word in words:
            for place in reversed(range(len(word) - 1)):
                if word[place : place + 2] == [left, right]:
                    word[place : place + 2] = [left + right]
    # A run that is cut from the left, digits, and a word that no merge leads to.
    for token in (b"aaa", b"12", b"123", b"1234", b"qzqz"):
        tokens.setdefault(token, len(tokens))
    return tokens


def write(path: Path) -> None:
    """Writes `ranks` to a file."""
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks().items())
    path.write_bytes(b"".join(lines))
