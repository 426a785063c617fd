"""The tokenizer inside a GGUF file, written as `tokenizer.json` or `tokenizer.model`, with `tokenizer_config.json`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax.convert.gguf_sentencepiece import write_sentencepiece
from alpaca_jax.convert.tiktoken_tokenizer import PATTERN as LLAMA3_PATTERN
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, write_json_atomic

# Kinds of token in `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4

_BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@dataclasses.dataclass(frozen=True)
class _Cut:
    """What `tokenizer.ggml.pre` says of how text is cut before merging.

    Attributes:
      pre_tokenizers: Hugging Face's.
      ignore_merges: whether a piece that is a token as a whole is taken so, whatever the merges would make of it.
      adds_bos: whether a text gets a beginning where the file does not say.
    """

    pre_tokenizers: tuple[dict[str, Any], ...]
    ignore_merges: bool
    adds_bos: bool


_LLAMA3 = _Cut(
    (
        {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
        _BYTE_LEVEL | {"use_regex": False},
    ),
    ignore_merges=True,
    adds_bos=True,
)
_CUTS = {
    # Each digit apart, then GPT-2's pattern, as llama.cpp does for this name and as the vocabulary was made: it has no
    # token of a digit with anything else. (transformers, reading a GGUF, leaves the digits joined; its ids differ where
    # several spaces stand before a digit.)
    "smollm": _Cut(
        ({"type": "Digits", "individual_digits": True}, _BYTE_LEVEL | {"use_regex": True}),
        ignore_merges=False,
        adds_bos=False,
    ),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}

Metadata = Callable[[str], Any]


def write_tokenizer(metadata: Metadata, source: str, folder: Path) -> None:
    """Writes the tokenizer's two files into `folder`.

    Args:
      metadata: gives the value of a key of the GGUF file, or None.
      source: the file's name, for messages.
      folder: an existing folder.

    Raises:
      UserError: the file has no tokenizer, one of another kind, or a damaged one.
    """

    def get(key: str) -> Any:
        return metadata(f"tokenizer.ggml.{key}")

    def refuse(key: str, expected: str) -> UserError:
        return UserError(
            f"{source}, tokenizer.ggml.{key}",
            expected=expected,
            found=shorten(get(key)),
            remedy="import the model's Hugging Face folder instead; this version reads no other tokenizer from a GGUF",
        )

    if get("model") not in ("gpt2", "llama"):
        raise refuse("model", "'gpt2', byte-level BPE, or 'llama', SentencePiece")
    tokens = get("tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise refuse("tokens", "a list of str")
    if len(set(tokens)) != len(tokens):
        raise refuse("tokens", "each token once")
    if not isinstance(get("token_type"), list) or len(get("token_type")) != len(tokens):
        raise refuse("token_type", f"a list of {len(tokens)}, one for each token")
    special = {name: _special_token(get(f"{key}_token_id"), tokens) for name, key in _SPECIAL_TOKENS.items()}
    if special["eos_token"] is None:
        raise refuse("eos_token_id", f"an id below {len(tokens)}, of a token that is not empty")
    byte_level = get("model") == "gpt2"
    if byte_level and get("pre") not in _CUTS:
        raise refuse("pre", " or ".join(map(repr, _CUTS)))
    adds_bos = get("add_bos_token")
    if adds_bos is None:
        adds_bos = _CUTS[get("pre")].adds_bos if byte_level else True
    if adds_bos and special["bos_token"] in (None, special["eos_token"]):
        raise refuse("bos_token_id", f"a token of its own, other than {special['eos_token']!r} that ends a text")
    if byte_level:
        _write_byte_level(get, refuse, folder)
    else:
        write_sentencepiece(get, refuse, folder)
    tokenizer_class = "PreTrainedTokenizerFast" if byte_level else "LlamaTokenizer"
    config = _config(special, bool(adds_bos), metadata("tokenizer.chat_template"), tokenizer_class)
    write_json_atomic(folder / "tokenizer_config.json", config)


def _write_byte_level(get: Metadata, refuse: Callable[[str, str], UserError], folder: Path) -> None:
    merges = get("merges")
    if not isinstance(merges, list) or not merges or not isinstance(merges[0], str):
        raise refuse("merges", "a list of str")
    try:
        tokenizer = _build(get("tokens"), get("token_type"), merges, _CUTS[get("pre")])
    except Exception as error:  # the library raises this bare class for everything that does not fit together
        raise refuse("merges", f"merges of the vocabulary's tokens ({error})") from error
    with explain_os_errors(folder):
        tokenizer.save(str(folder / "tokenizer.json"))


_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _special_token(id: Any, tokens: list[str]) -> str | None:
    return (tokens[id] or None) if isinstance(id, int) and 0 <= id < len(tokens) else None


def _config(special: dict[str, str | None], adds_bos: bool, chat_template: Any, tokenizer_class: str) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    config: dict[str, Any] = {key: token for key, token in special.items() if token is not None}
    if special["bos_token"] == special["eos_token"]:
        del config["bos_token"]  # never put before a text, it is a beginning in name alone
    if isinstance(chat_template, str):
        config["chat_template"] = chat_template
    return config | {
        "tokenizer_class": tokenizer_class,
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
    }


def _build(tokens: list[str], kinds: list[int], merges: list[str], cut: _Cut) -> Any:
    """The tokenizer as an object of the `tokenizers` library."""
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models

    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    model = models.BPE(
        vocab={token: id for id, token in enumerate(tokens)}, merges=pairs, ignore_merges=cut.ignore_merges
    )
    description = json.loads(Tokenizer(model).to_str())
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(cut.pre_tokenizers)}
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer
