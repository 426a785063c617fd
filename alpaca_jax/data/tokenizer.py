"""One tokenizer interface over SentencePiece models and Hugging Face `tokenizer.json` files."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from alpaca_jax.data import tokenizer_files
from alpaca_jax.data.tokenizer_files import TokenizerFiles
from alpaca_jax.data.word_cache import WordCache, words_stand_apart
from alpaca_jax.support.errors import UserError, shorten

# SentencePiece writes a space as this character, so that a genuine one in a text would come back as a space.
_SPACE_SIGN = "\u2581"
# How the end of an answer is spelt by the common families; used only where no tokenizer_config.json says it.
_USUAL_EOS = ("</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>")

# Where a text stands: at the start of a sequence, right after a special token, or inside, after other text.
Where: TypeAlias = Literal["start", "after special", "inside"]


class Tokenizer(Protocol):
    """Text to ids and back, with prompt and response encoded apart.

    A text is never read as a special token, whatever it spells.

    Attributes:
      vocab_size: the number of ids, added tokens included: every id is below it.
      bos_id: the id of the beginning of a text, or None where the tokenizer has none.
      eos_id: the id that ends an answer; never equal to `bos_id`.
      special_ids: the special tokens by name.
      sha256: hash of the tokenizer's files; equal for a copy that `save` made.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int
    special_ids: dict[str, int]
    sha256: str

    def encode_batch(self, texts: Sequence[str], where: Where) -> list[np.ndarray]:
        """The ids of each text, int32; no eos.

        A text at the "start" is encoded as the tokenizer's own library does it, bos included where it adds one; "after
        special", as the library goes on after a special token (SentencePiece invents a leading space again, as in
        Meta's and transformers' own code); "inside", without an invented leading space.
        """

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of one text at the start."""

    def encode_response(self, text: str) -> list[int]:
        """The ids of one text inside."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of response ids; bos, eos, other control ids and ids of no piece are passed over.

        Exact inverse of `encode_response` where the tokenizer does not normalise (LLaMA's, Mistral's and byte-level
        ones do not).
        """

    def piece(self, id: int) -> str:
        """How one id reads, for display: its text, or its name where it is a control id or part of a character."""

    def save(self, folder: str | Path) -> None:
        """Copies the tokenizer's files into a folder that `load_tokenizer` reads again."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a SentencePiece `.model` file, a `tokenizer.json` file, or a folder with one of them.

    A folder holds `tokenizer.model` (taken first) or `tokenizer.json`; a checkpoint, packed data or a work directory of
    `train` holds such a folder. A `tokenizer_config.json` in the same place, in Hugging Face's form, may name
    `bos_token` and `eos_token` and say `add_bos_token`. A special token that is an empty string counts as missing.

    Raises:
      UserError: no such file, not a tokenizer, no end-of-text token, or the same token for bos and eos.
    """
    files = tokenizer_files.find(path)
    return SentencePieceTokenizer(files) if files.kind == "sentencepiece" else HuggingFaceTokenizer(files)


class _OneByOne:
    """The encoding of single texts."""

    def encode_batch(self, texts: Sequence[str], where: Where) -> list[np.ndarray]:
        """See `Tokenizer`."""
        raise NotImplementedError

    def encode_prompt(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self.encode_batch([text], "start")[0].tolist()

    def encode_response(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self.encode_batch([text], "inside")[0].tolist()


class SentencePieceTokenizer(_OneByOne):
    """LLaMA 1/2, Mistral and the like: a SentencePiece model, and the same model without the invented leading space."""

    def __init__(self, files: TokenizerFiles):
        """Loads both processors; see `load_tokenizer`."""
        from sentencepiece import SentencePieceProcessor

        description = tokenizer_files.parse_sentencepiece(files)
        self._files, self.sha256 = files, files.sha256
        self._processor = SentencePieceProcessor(model_proto=description.SerializeToString())
        invented = " " if description.normalizer_spec.add_dummy_prefix else ""
        description.normalizer_spec.add_dummy_prefix = False
        self._response_processor = SentencePieceProcessor(model_proto=description.SerializeToString())
        self._beginning: Callable[[str], np.ndarray] = lambda text: _array(self._processor.encode(text))
        self._continuing: Callable[[str], np.ndarray] = lambda text: _array(self._response_processor.encode(text))
        if words_stand_apart(description):
            words = WordCache(self._response_processor.encode)
            self._beginning = lambda text: words.encode(invented + text if text else "")
            self._continuing = words.encode
        self._pieces = self._processor.vocab_size()
        added = files.added_tokens
        self.vocab_size = max([self._pieces, *(id + 1 for id in added)])
        special = {self._processor.id_to_piece(id): id for id in range(self._pieces)}
        special |= {text: id for id, text in added.items()}
        own_bos, own_eos = self._processor.bos_id(), self._processor.eos_id()
        bos_id = _named(files, "bos_token", special, own_bos if own_bos >= 0 else None)
        eos_id = _named(files, "eos_token", special, own_eos if own_eos >= 0 else None)
        adds_bos = files.add_bos_token is not False
        self.bos_id, self.eos_id = _distinct(files, bos_id, eos_id, adds_bos)
        self._added = added
        controls = (id for id in range(self._pieces) if self._processor.is_control(id))
        self.special_ids = {self._processor.id_to_piece(id): id for id in controls}
        self.special_ids |= {text: id for id, text in added.items() if id >= self._pieces}
        self._prefix = _array([self.bos_id] if adds_bos and self.bos_id is not None else [])
        space_sign = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_SIGN.encode()]
        self._space_sign = _array(space_sign) if all(self._processor.is_byte(id) for id in space_sign) else None

    def encode_batch(self, texts: Sequence[str], where: Where) -> list[np.ndarray]:
        """See `Tokenizer`. Inside, a genuine U+2581 becomes its three bytes, since the library reads it as a space."""
        if where == "inside":
            return [self._encode_inside(text) for text in texts]
        if where == "start" and len(self._prefix):
            return [np.concatenate((self._prefix, self._beginning(text))) for text in texts]
        return [self._beginning(text) for text in texts]

    def _encode_inside(self, text: str) -> np.ndarray:
        if self._space_sign is None or _SPACE_SIGN not in text:
            return self._continuing(text)
        first, *rest = map(self._continuing, text.split(_SPACE_SIGN))
        return np.concatenate([first, *(part for ids in rest for part in (self._space_sign, ids))])

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer`."""
        processor, ends = self._response_processor, (self.bos_id, self.eos_id)
        kept = [id for id in map(int, ids) if 0 <= id < self._pieces and id not in ends]
        return processor.decode([id for id in kept if not processor.is_control(id)])

    def piece(self, id: int) -> str:
        """See `Tokenizer`."""
        if id in self._added:
            return self._added[id]
        return self._processor.id_to_piece(id).replace(_SPACE_SIGN, " ") if id < self._pieces else f"<id {id}>"

    def save(self, folder: str | Path) -> None:
        """See `Tokenizer`."""
        self._files.save(folder)


class HuggingFaceTokenizer(_OneByOne):
    """LLaMA 3, SmolLM2, Qwen and the like: a `tokenizer.json`, read by the `tokenizers` library."""

    def __init__(self, files: TokenizerFiles):
        """Loads the tokenizer, twice where it invents a leading space; see `load_tokenizer`."""
        self._files, self.sha256 = files, files.sha256
        description = files.read_json()
        self._tokenizer = _tokenizer_of(files, description)
        continuing = tokenizer_files.without_leading_space(description)
        self._response_tokenizer = _tokenizer_of(files, continuing) if continuing != description else self._tokenizer
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self._special = {i: t.content for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special}
        # What the tokenizer puts before and after a text shows which tokens it adds by itself.
        frame = self._tokenizer.encode("", add_special_tokens=True).ids
        usual = [vocabulary[text] for text in _USUAL_EOS if vocabulary.get(text) in self._special]
        eos_id = _named(files, "eos_token", vocabulary, usual[0] if len(usual) == 1 else None)
        framing_bos = frame[0] if frame and frame[0] != eos_id and frame[0] in self._special else None
        bos_id = _named(files, "bos_token", vocabulary, framing_bos)
        adds_bos = framing_bos is not None if files.add_bos_token is None else files.add_bos_token
        self.bos_id, self.eos_id = _distinct(files, bos_id, eos_id, adds_bos)
        self.special_ids = {text: id for id, text in self._special.items()}
        self._prefix = [self.bos_id] if adds_bos and self.bos_id is not None else []
        self._invents_after_special = self._goes_on("a") != self.encode_response("a")

    def encode_batch(self, texts: Sequence[str], where: Where) -> list[np.ndarray]:
        """See `Tokenizer`."""
        invents = where == "start" or (where == "after special" and self._invents_after_special)
        tokenizer = self._tokenizer if invents else self._response_tokenizer
        prefix = self._prefix if where == "start" else []
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [_array(prefix + encoding.ids) for encoding in encodings]

    def _goes_on(self, text: str) -> list[int]:
        """The ids that the library itself gives a text right after a special token."""
        if not self.special_ids:
            return self._response_tokenizer.encode(text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = False
        ids = self._tokenizer.encode(next(iter(self.special_ids)) + text, add_special_tokens=False).ids
        self._tokenizer.encode_special_tokens = True
        return ids[1:]

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer`."""
        skipped = {*self._special, self.bos_id, self.eos_id}
        kept = [id for id in map(int, ids) if 0 <= id < self.vocab_size and id not in skipped]
        return self._response_tokenizer.decode(kept, skip_special_tokens=True)

    def piece(self, id: int) -> str:
        """See `Tokenizer`."""
        name = self._tokenizer.id_to_token(id)
        if name is None:
            return f"<id {id}>"
        text = "" if id in self._special else self.decode([id])
        return name if text == "" or "\ufffd" in text else text

    def save(self, folder: str | Path) -> None:
        """See `Tokenizer`."""
        self._files.save(folder)


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def _tokenizer_of(files: TokenizerFiles, description: dict[str, Any]) -> Any:
    """The library's tokenizer for a description, set to treat special-token strings in a text as text."""
    import json

    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # the library raises this bare class for everything it cannot read
        raise files.refuse(shorten(str(error))) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _named(files: TokenizerFiles, key: str, ids: dict[str, int], otherwise: int | None) -> int | None:
    """The id of the token that tokenizer_config.json names under `key`; `otherwise` where it names none."""
    text = files.special_token(key)
    if text is None:
        return otherwise
    if text not in ids:
        raise UserError(
            f"{files.config_path}, {key}",
            expected="a token of the vocabulary",
            found=shorten(text),
            remedy="take tokenizer_config.json from the same model as the tokenizer",
        )
    return ids[text]


def _distinct(files: TokenizerFiles, bos_id: int | None, eos_id: int | None, adds_bos: bool) -> tuple[int | None, int]:
    """Both ids, refused where a model trained with them could never learn to stop.

    A bos that is the eos too and is never put before a text (base SmolLM2, Qwen) is a beginning in name alone: None.
    """
    if eos_id is None:
        raise UserError(
            str(files.path),
            expected="a token that ends an answer (eos)",
            found="none, or an empty string",
            remedy='name it as "eos_token" in a tokenizer_config.json beside the tokenizer',
        )
    if bos_id == eos_id and not adds_bos:
        return None, eos_id
    if bos_id == eos_id:
        raise UserError(
            str(files.path),
            expected="different tokens for the beginning (bos) and the end (eos) of a text",
            found=f"id {eos_id} for both",
            remedy='name different ones as "bos_token" and "eos_token" in a tokenizer_config.json beside the tokenizer',
        )
    return bos_id, eos_id
