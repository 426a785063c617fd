"""The tokenizer inside a GGUF file, written as Hugging Face's `tokenizer.json` and `tokenizer_config.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, write_json_atomic

# Kinds of token in `tokenizer.ggml.token_type`.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4

# What `tokenizer.ggml.pre` says of how text is cut before merging, as Hugging Face's pre-tokenizers.
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    # Each digit apart, then GPT-2's pattern, as llama.cpp does for this name and as the vocabulary was made: it has no
    # token of a digit with anything else. (transformers, reading a GGUF, leaves the digits joined; its ids differ where
    # several spaces stand before a digit.)
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}

Metadata = Callable[[str], Any]


def write_tokenizer(metadata: Metadata, source: str, folder: Path) -> None:
    """Writes both files into `folder`.

    Args:
      metadata: gives the value of a key of the GGUF file, or None.
      source: the file's name, for messages.
      folder: an existing folder.

    Raises:
      UserError: the file has no tokenizer, one of another kind than byte-level BPE, or a damaged one.
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

    if get("model") != "gpt2":
        raise refuse("model", "'gpt2', byte-level BPE")
    if get("pre") not in _PRE_TOKENIZERS:
        raise refuse("pre", " or ".join(map(repr, _PRE_TOKENIZERS)))
    for key, kind in (("tokens", str), ("token_type", int), ("merges", str)):
        if not isinstance(get(key), list) or not get(key) or not isinstance(get(key)[0], kind):
            raise refuse(key, f"a list of {kind.__name__}")
    tokens: list[str] = get("tokens")
    if len(set(tokens)) != len(tokens):
        raise refuse("tokens", "each token once")
    if len(get("token_type")) != len(tokens):
        raise refuse("token_type", f"a list of {len(tokens)}, one for each token")
    special = {name: _special_token(get(f"{key}_token_id"), tokens) for name, key in _SPECIAL_TOKENS.items()}
    if special["eos_token"] is None:
        raise refuse("eos_token_id", f"an id below {len(tokens)}, of a token that is not empty")
    adds_bos = bool(get("add_bos_token"))
    if adds_bos and special["bos_token"] in (None, special["eos_token"]):
        raise refuse("bos_token_id", f"a token of its own, other than {special['eos_token']!r} that ends a text")
    try:
        tokenizer = _build(tokens, get("token_type"), get("merges"), _PRE_TOKENIZERS[get("pre")])
    except Exception as error:  # the library raises this bare class for everything that does not fit together
        raise refuse("merges", f"merges of the vocabulary's tokens ({error})") from error
    with explain_os_errors(folder):
        tokenizer.save(str(folder / "tokenizer.json"))
    config = _config(special, adds_bos, metadata("tokenizer.chat_template"))
    write_json_atomic(folder / "tokenizer_config.json", config)


_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _special_token(id: Any, tokens: list[str]) -> str | None:
    return (tokens[id] or None) if isinstance(id, int) and 0 <= id < len(tokens) else None


def _config(special: dict[str, str | None], adds_bos: bool, chat_template: Any) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    config: dict[str, Any] = {key: token for key, token in special.items() if token is not None}
    if special["bos_token"] == special["eos_token"]:
        del config["bos_token"]  # never put before a text, it is a beginning in name alone
    if isinstance(chat_template, str):
        config["chat_template"] = chat_template
    return config | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
    }


def _build(tokens: list[str], kinds: list[int], merges: list[str], pre_tokenizers: list[dict[str, Any]]) -> Any:
    """The tokenizer as an object of the `tokenizers` library."""
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models

    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    model = models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=pairs)
    description = json.loads(Tokenizer(model).to_str())
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": pre_tokenizers}
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer
