"""A tokenizer's files as transformers expects them beside a model.

transformers turns a SentencePiece model into its own form each time it loads one, and its fifth version then treats
spaces at the beginning of a text otherwise than SentencePiece does. So where the tokenizer came without a description
of its own, a `tokenizer.json` that gives SentencePiece's ids is written beside the `tokenizer.model`.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_jax.data import tokenizer_files
from alpaca_jax.support.files import write_json_atomic

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_PAD = "[PAD]"
_SPACE_SIGN = "\u2581"
# SentencePiece's kinds of pieces and of models, by the numbers that its files hold.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_BPE = 2


def write_tokenizer(tokenizer: "Tokenizer", vocab_size: int, folder: Path) -> int | None:
    """Writes a tokenizer into a Hugging Face folder.

    A model with one row more than the tokenizer has ids was given a [PAD] row before it was fine-tuned, as the original
    Alpaca was; the token is then added.

    Args:
      tokenizer: the tokenizer.
      vocab_size: the model's rows.
      folder: where.

    Returns:
      The id of the token for padding, where there is one.

    Raises:
      UserError: the folder cannot be written.
    """
    tokenizer.save(folder)
    files = tokenizer_files.find(folder)
    config_path = folder / "tokenizer_config.json"
    config: dict[str, Any] = dict(files.config)
    if files.kind == "sentencepiece":
        description = _tokenizer_json(tokenizer_files.parse_sentencepiece(files))
        if description is not None:
            write_json_atomic(folder / "tokenizer.json", description)
        if not config:
            config = _new_config(tokenizer) | ({} if description else {"tokenizer_class": "LlamaTokenizer"})
        elif files.add_bos_token is None:
            # Unsaid, transformers from its fifth version on takes it for no.
            config["add_bos_token"] = _adds_bos(tokenizer)
            write_json_atomic(config_path, config)
    config = config or _new_config(tokenizer)
    if vocab_size == tokenizer.vocab_size + 1 and not config.get("pad_token"):
        added = config.get("added_tokens_decoder", {})
        config |= {"pad_token": _PAD, "added_tokens_decoder": added | {str(vocab_size - 1): _added_token(_PAD)}}
        write_json_atomic(config_path, config)
        return vocab_size - 1
    if not config_path.is_file():
        write_json_atomic(config_path, config)
    return tokenizer.special_ids.get(files.special_token("pad_token") or "")


def _new_config(tokenizer: "Tokenizer") -> dict[str, Any]:
    """A tokenizer_config.json for a tokenizer that came without one."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None if tokenizer.bos_id is None else tokenizer.piece(tokenizer.bos_id),
        "eos_token": tokenizer.piece(tokenizer.eos_id),
        "clean_up_tokenization_spaces": False,
    }
    return config | {"add_bos_token": _adds_bos(tokenizer), "add_eos_token": False}


def _adds_bos(tokenizer: "Tokenizer") -> bool:
    return tokenizer.bos_id is not None and tokenizer.encode_prompt("a")[:1] == [tokenizer.bos_id]


def _added_token(content: str) -> dict[str, Any]:
    sides = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, **sides, "special": True}


def _tokenizer_json(model: Any) -> dict[str, Any] | None:
    """A tokenizer.json with the same pieces as a SentencePiece `ModelProto`.

    None where it would not give the same ids: for another model than one of byte pairs, one that changes the text
    beforehand, or one with pieces that are taken out of the text before the byte pairs are looked at.
    """
    spec = model.normalizer_spec
    kinds = {piece.type for piece in model.pieces}
    changes_text = bool(spec.precompiled_charsmap) or spec.remove_extra_whitespaces or not spec.add_dummy_prefix
    if model.trainer_spec.model_type != _BPE or changes_text or _USER_DEFINED in kinds:
        return None
    ids = {piece.piece: id for id, piece in enumerate(model.pieces)}
    unknown = next((piece.piece for piece in model.pieces if piece.type == _UNKNOWN), None)
    special = [(id, piece.piece) for id, piece in enumerate(model.pieces) if piece.type in (_UNKNOWN, _CONTROL)]
    bos = next(((id, piece) for id, piece in special if id == model.trainer_spec.bos_id), None)
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    frame = [{"SpecialToken": {"id": bos[1], "type_id": 0}}] if bos else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, **_added_token(text)} for id, text in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": _SPACE_SIGN},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_SIGN},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": frame + single,
            "pair": [*frame, *single, *frame, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos[1]: {"id": bos[1], "ids": [bos[0]], "tokens": [bos[1]]}} if bos else {},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE_SIGN}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": model.trainer_spec.byte_fallback,
            "ignore_merges": False,
            "vocab": ids,
            "merges": _merges(model),
        },
    }


def _merges(model: Any) -> list[list[str]]:
    """The merges that SentencePiece does, first those whose result has the highest score: every split of each piece."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type not in (_UNKNOWN, _CONTROL)}
    merged = sorted(scores, key=lambda piece: -scores[piece])
    splits = itertools.chain.from_iterable(((p[:cut], p[cut:]) for cut in range(1, len(p))) for p in merged)
    return [[left, right] for left, right in splits if left in scores and right in scores]
