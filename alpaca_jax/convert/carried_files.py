"""The files of a Hugging Face folder that go along with its weights: description, tokenizer, template."""

import shutil
from pathlib import Path

from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.hashing import sha256_file

CONFIG = "config.json"
_NAMES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def carry_files(origin: Path, folder: Path) -> None:
    """Copies those of them that `origin` has.

    Raises:
      UserError: one cannot be read or written.
    """
    for name in _NAMES:
        with explain_os_errors(origin / name):
            if (origin / name).is_file():
                shutil.copyfile(origin / name, folder / name)


def hash_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each of them that the folder has, by name.

    Raises:
      UserError: one cannot be read.
    """
    with explain_os_errors(folder):
        return {name: sha256_file(folder / name) for name in _NAMES if (folder / name).is_file()}
