"""LLaMA 3's `tokenizer.model`, a list of byte strings with their ranks, written as Hugging Face's `tokenizer.json`."""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, write_json_atomic

# How text is cut before merging: LLaMA 3's published pattern.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BEGINNING, _END = "<|begin_of_text|>", "<|end_of_text|>"
_SPECIAL_TOKENS = 256
# No tokenizer comes near it; a checkpoint named by mistake is refused without being read.
_LARGEST_FILE = 2**26


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins with a token in base 64 and its rank, as no SentencePiece model does.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", file.read(256)) is not None


def special_tokens(*, since_3_1: bool) -> list[str]:
    """The names of the 256 ids behind the ranks, in their order: LLaMA 3's, or those that 3.1 gave to some of them."""
    named = {0: _BEGINNING, 1: _END, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>"}
    if since_3_1:
        named |= {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(_SPECIAL_TOKENS))
    return [named[id] if id in named else next(reserved) for id in range(_SPECIAL_TOKENS)]


def write_tokenizer(path: Path, folder: Path, *, since_3_1: bool) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`.

    A text ends with `<|end_of_text|>`. A model that was trained to chat ends its turns with `<|eot_id|>`, but no file
    of Meta's tells the one model from the other; a chat template brings its own end.

    Args:
      path: the file with one token in base 64 and its rank a line.
      folder: an existing folder.
      since_3_1: which names the special tokens have; see `special_tokens`.

    Raises:
      UserError: the file is another, or damaged.
    """
    with explain_os_errors(folder):
        tokenizer = _build(_read_ranks(path), special_tokens(since_3_1=since_3_1))
        tokenizer.save(str(folder / "tokenizer.json"))
    write_json_atomic(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": _BEGINNING,
            "eos_token": _END,
            "clean_up_tokenization_spaces": False,
        },
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Each token's rank: its id, and its place in the order of merging."""

    def refuse(expected: str, found: str) -> UserError:
        return UserError(str(path), expected=expected, found=found, remedy="download the model's tokenizer again")

    with explain_os_errors(path):
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise refuse("a list of tokens", f"a file of {size / 2**20:,.0f} MiB")
        lines = path.read_bytes().splitlines()
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
            if not token:
                raise ValueError("no token")
        except (binascii.Error, ValueError):
            raise refuse("a token in base 64 and its rank a line", f"{shorten(line)} in line {number}") from None
    if sorted(ranks.values()) != list(range(len(lines))):
        raise refuse("each token, and each rank from 0 on, once", "doubled or missing ones")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise refuse("each byte among the tokens", f"none for {missing[0]:#04x}")
    return ranks


def _build(ranks: dict[bytes, int], special: list[str]) -> Any:
    """The tokenizer as an object of the `tokenizers` library."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = _letters()
    spelt = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(spelt[left], spelt[right]) for left, right in _merges(ranks)]
    model = models.BPE(vocab={spelt[token]: id for token, id in ranks.items()}, merges=merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGINNING} $A",
        pair=f"{_BEGINNING} $A {_BEGINNING}:1 $B:1",
        special_tokens=[(_BEGINNING, tokenizer.token_to_id(_BEGINNING))],
    )
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs of tokens that make a token, in the order of merging.

    A list of ranks merges any two neighbours that make a token, the lowest rank first; so each way to cut a token into
    two is a merge of that token's rank.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = ((token[:place], token[place:]) for place in range(1, len(token)))
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _letters() -> list[str]:
    """The letter for each byte in byte-level BPE (Radford et al. 2019): its own if it prints, or one from U+0100."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]
