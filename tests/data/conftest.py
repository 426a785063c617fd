"""A tokenizer that a reader can follow in the head, and one small dataset for the tests that only read."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.packed_dataset import PackedDataset, open_packed_dataset
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.data.tokenizer import Where


class WordTokenizer:
    """Numbers words (with the space before them), marks and white space from 10, in the order they are first met."""

    bos_id, eos_id, vocab_size, sha256 = 1, 2, 1_000_000, "0" * 64
    special_ids: ClassVar = {"<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4}

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def encode_batch(self, texts: Sequence[str], where: Where) -> list[np.ndarray]:
        start = [self.bos_id] * (where == "start")
        return [np.array(start + self.encode_response(text), np.int32) for text in texts]

    def encode_prompt(self, text: str) -> list[int]:
        return [self.bos_id, *self.encode_response(text)]

    def encode_response(self, text: str) -> list[int]:
        return [self._ids.setdefault(piece, 10 + len(self._ids)) for piece in re.findall(r" ?\w+|[^\w\s]|\s", text)]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.piece(id) for id in ids if id not in (self.bos_id, self.eos_id))

    def piece(self, id: int) -> str:
        return {id: name for name, id in self.special_ids.items()}.get(id) or list(self._ids)[id - 10]

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError


@pytest.fixture
def words() -> WordTokenizer:
    return WordTokenizer()


@pytest.fixture(scope="session")
def request_256() -> Request:
    return Request(inputs=(SEED_TASKS,), tokenizer=TOKENIZER, seq_len=256, seed=3, eval_fraction=0.2)


@pytest.fixture(scope="session")
def packed(request_256: Request, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """The embedded seed tasks, prepared: about 60 rows to train on and 15 to evaluate on. Not to be changed."""
    folder = tmp_path_factory.mktemp("packed") / "data"
    prepare(request_256, folder)
    return open_packed_dataset(folder)
