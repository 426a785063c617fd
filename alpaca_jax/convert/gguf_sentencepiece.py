"""The SentencePiece tokenizer inside a GGUF file, written as the `tokenizer.model` that it was made from.

A GGUF keeps of it the pieces, their scores and their kinds (the numbers of SentencePiece's own `ModelProto`), and two
settings. What it leaves out, LLaMA 1 and 2 and Mistral have in common: byte-pair merges and no normalisation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors

_BYTE = 6  # the kind of a piece that stands for one byte
_KINDS = range(1, 7)
_SPECIAL = {"unk": "unknown", "bos": "bos", "eos": "eos", "pad": "padding"}


def write_sentencepiece(get: Callable[[str], Any], refuse: Callable[[str, str], UserError], folder: Path) -> None:
    """Writes `tokenizer.model` into `folder`.

    Args:
      get: gives the value of a key under `tokenizer.ggml.`, or None.
      refuse: makes the error from such a key and what was expected.
      folder: an existing folder.

    Raises:
      UserError: the lists do not fit together, or the SentencePiece library cannot load what they make.
    """
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    tokens, scores, kinds = get("tokens"), get("scores"), get("token_type")
    for key, values, type_ in (("tokens", tokens, str), ("scores", scores, float), ("token_type", kinds, int)):
        if not isinstance(values, list) or len(values) != len(tokens) or not isinstance(values[0], type_):
            raise refuse(key, f"a list of {type_.__name__}, one for each token")
    if not set(kinds) <= set(_KINDS):
        raise refuse("token_type", f"numbers from {_KINDS[0]} to {_KINDS[-1]}")
    if get("precompiled_charsmap") is not None:
        raise refuse("precompiled_charsmap", "no such key: a tokenizer that leaves text as it is")

    model = ModelProto()
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = _BYTE in kinds
    for name, key in _SPECIAL.items():
        id = get(f"{key}_token_id")
        id = id if isinstance(id, int) and 0 <= id < len(tokens) else -1
        setattr(trainer, f"{name}_id", id)
        if id >= 0:
            setattr(trainer, f"{name}_piece", tokens[id])
    normaliser = model.normalizer_spec
    normaliser.name = "identity"
    normaliser.add_dummy_prefix = get("add_space_prefix") is not False
    normaliser.remove_extra_whitespaces = bool(get("remove_extra_whitespaces"))
    content = model.SerializeToString()
    try:
        SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise refuse("tokens", "pieces that the SentencePiece library loads") from error
    with explain_os_errors(folder):
        (folder / "tokenizer.model").write_bytes(content)
