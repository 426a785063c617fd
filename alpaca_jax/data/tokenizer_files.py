"""Where a tokenizer's files lie, what they say, and the edits that take away the leading space they invent."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, read_json
from alpaca_jax.support.hashing import sha256_file, sha256_json

# No tokenizer comes near it; a checkpoint named by mistake is refused without being read.
_LARGEST_MODEL = 2**26

_MODEL, _JSON, _CONFIG = "tokenizer.model", "tokenizer.json", "tokenizer_config.json"
# Where a folder of ours has it: itself, a checkpoint or packed data, a work directory of `train`.
_WITHIN = (".", "tokenizer", "checkpoints/tokenizer")
# What else belongs to a described tokenizer: nothing here reads it, it goes along for those who load the model next.
_COMPANIONS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's files, not yet read.

    Attributes:
      path: the `.model` or `.json` file.
      kind: which library reads it.
      config_path: the `tokenizer_config.json` beside it, or None.
    """

    path: Path
    kind: Literal["sentencepiece", "huggingface"]
    config_path: Path | None

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the file; with a tokenizer_config.json, of both files under their usual names."""
        with explain_os_errors(self.path):
            if self.config_path is None:
                return sha256_file(self.path)
            return sha256_json({self._usual_name: sha256_file(self.path), _CONFIG: sha256_file(self.config_path)})

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json, or nothing.

        Raises:
          UserError: it is not a JSON object.
        """
        if self.config_path is None:
            return {}
        config = read_json(self.config_path)
        if not isinstance(config, dict):
            raise self._refuse_config("a JSON object", shorten(config))
        return config

    @property
    def add_bos_token(self) -> bool | None:
        """Whether tokenizer_config.json wants bos before each text; None where it does not say."""
        value = self.config.get("add_bos_token")
        if value is not None and not isinstance(value, bool):
            raise self._refuse_config("true or false for add_bos_token", shorten(value))
        return value

    @property
    def added_tokens(self) -> dict[int, str]:
        """The tokens, by id, that tokenizer_config.json adds to the vocabulary or lists as special."""
        try:
            return {int(id): str(token["content"]) for id, token in self.config.get("added_tokens_decoder", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._refuse_config(
                '{"ID": {"content": TEXT}, …} for added_tokens_decoder', shorten(error)
            ) from error

    def special_token(self, key: str) -> str | None:
        """The text of `bos_token` or `eos_token` in tokenizer_config.json; None where missing, null or empty."""
        value = self.config.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            raise self._refuse_config(f"a text for {key}", shorten(value))
        return value or None

    def read_json(self) -> dict[str, Any]:
        """The content of tokenizer.json.

        Raises:
          UserError: it is not a JSON object.
        """
        description = read_json(self.path)
        if not isinstance(description, dict):
            raise self.refuse("another JSON value")
        return description

    def save(self, folder: str | Path) -> None:
        """Copies the files into `folder` under their usual names; with a description, what else lies beside it."""
        files = {self._usual_name: self.path}
        if self.config_path is not None:
            files[_CONFIG] = self.config_path
            files |= {name: self.path.with_name(name) for name in _COMPANIONS if self.path.with_name(name).is_file()}
        with explain_os_errors(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, file in files.items():
                (Path(folder) / name).write_bytes(file.read_bytes())

    def refuse(self, found: str) -> UserError:
        """The error for a file that is not what its name says."""
        what = "a SentencePiece model" if self.kind == "sentencepiece" else "a Hugging Face tokenizer.json"
        return UserError(
            str(self.path), expected=what, found=found, remedy="give a tokenizer.model or tokenizer.json, or its folder"
        )

    def _refuse_config(self, expected: str, found: str) -> UserError:
        return UserError(
            str(self.config_path), expected=expected, found=found, remedy="correct the file or take the model's own"
        )

    @property
    def _usual_name(self) -> str:
        return _MODEL if self.kind == "sentencepiece" else _JSON


def find(path: str | Path) -> TokenizerFiles:
    """The files of the tokenizer at `path`: a file, or a folder that holds one under its usual name.

    In a checkpoint, in packed data and in a work directory of `train` it is found in the folder that they keep it in.

    Raises:
      UserError: nothing there, or nothing of a tokenizer's.
    """
    path = Path(path)
    with explain_os_errors(path):
        if path.is_dir():
            places = [path / folder / name for folder in _WITHIN for name in (_MODEL, _JSON)]
            present = [place for place in places if place.is_file()]
            if not present:
                raise UserError(
                    str(path),
                    expected=f"a folder with {_MODEL} or {_JSON}, or a checkpoint",
                    found="neither",
                    remedy="give the folder of a model, a checkpoint, or the tokenizer's file itself",
                )
            file = present[0]
        else:
            file = path
        with open(file, "rb") as stream:
            start = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    config = file.with_name(_CONFIG)
    return TokenizerFiles(
        path=file,
        kind="huggingface" if file.suffix == ".json" or start[:1] == b"{" else "sentencepiece",
        config_path=config if config.is_file() else None,
    )


def parse_sentencepiece(files: TokenizerFiles) -> Any:
    """The description (a `ModelProto`) in a SentencePiece file, checked to be one that the library can load.

    Raises:
      UserError: the file is another.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    description = ModelProto()
    try:
        with explain_os_errors(files.path):
            size = files.path.stat().st_size
            if size > _LARGEST_MODEL:
                raise files.refuse(f"a file of {size / 2**20:,.0f} MiB")
            description.ParseFromString(files.path.read_bytes())
        if not description.pieces:
            raise files.refuse("a file without pieces")
        SentencePieceProcessor(model_proto=description.SerializeToString())
    except (DecodeError, RuntimeError) as error:
        raise files.refuse("another format, or a damaged file") from error
    return description


def without_leading_space(description: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json's content, changed so that a text keeps its own beginning, in encoding and in decoding.

    SentencePiece-like files prepend a space sign in the normaliser (`Prepend`) or the pre-tokeniser (`Metaspace`) and
    strip it in the decoder; byte-level ones may have `add_prefix_space`.
    """
    changed = copy.deepcopy(description)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        changed[part] = _keep_beginning(changed.get(part), part)
    return changed


def _keep_beginning(component: Any, part: str) -> Any:
    """One component of tokenizer.json without what invents or strips a leading space; None where nothing remains."""
    if not isinstance(component, dict):
        return component
    kind = component.get("type")
    if kind == "Sequence":
        for key in ("normalizers", "pretokenizers", "decoders"):
            if isinstance(component.get(key), list):
                kept = (_keep_beginning(inner, part) for inner in component[key])
                component[key] = [inner for inner in kept if inner is not None]
        return component
    if kind == "Prepend" or (kind == "Strip" and part == "decoder"):
        return None
    if kind == "Metaspace":
        component.pop("add_prefix_space", None)
        component["prepend_scheme"] = "never"
    if kind == "ByteLevel" and "add_prefix_space" in component:
        component["add_prefix_space"] = False
    return component
