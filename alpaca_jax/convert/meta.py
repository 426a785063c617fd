"""A folder as Meta publishes LLaMA: `params.json`, `consolidated.00.pth` and its further shards, `tokenizer.model`.

A shard holds a part of every matrix, for one of the machines that computed it in parallel (Shoeybi et al. 2019,
https://arxiv.org/abs/1909.08053): of a matrix [out, in] either rows, or columns where its input is divided among them.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alpaca_jax.convert.foreign_names import ForeignNames
from alpaca_jax.convert.meta_params import MetaParams
from alpaca_jax.convert.names import EMBEDDING, HEAD
from alpaca_jax.convert.rotary_pairs import in_rotary_halves
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.torch_files import TorchFile
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_PARAMS, _TOKENIZER = "params.json", "tokenizer.model"

# Meta's names for the tensors, in Hugging Face's words.
_NAMES = ForeignNames(
    "layers",
    outside={"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"},
    inside={
        "attention_norm": "input_layernorm",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    },
)
_DIVIDED_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
_DIVIDED_BY_COLUMNS = ("o_proj", "down_proj")
# The rotary frequencies, which follow from the configuration.
_IGNORED = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs")


class MetaFolder:
    """A `source.Source`.

    Args:
      folder: the folder.

    Raises:
      UserError: shards are missing or do not fit together, something that this project does not compute, or a damaged
        file.
    """

    kind = "meta"

    def __init__(self, folder: Path):
        self.path = folder
        params = MetaParams.read(folder / _PARAMS)
        self._shards = [TorchFile(path) for path in _shard_paths(folder)]
        self.files = (folder / _PARAMS, *(shard.path for shard in self._shards))
        self._check_shards_belong_together(params)
        self._dim = params.dim
        self.tensors = {
            _NAMES.theirs(name): self._joined(name) for name in self._shards[0].tensors if not _IGNORED.fullmatch(name)
        }
        embedding = self.tensors.get(EMBEDDING.theirs)
        if embedding is None or not embedding.shape:
            raise self._refuse("tok_embeddings.weight", "it among the tensors", "none")
        self.model = params.model(
            str(folder / _PARAMS), vocab_size=embedding.shape[0], tied_embeddings=self._head_is_embedding()
        )

    def read(self, name: str) -> np.ndarray:
        """See `source.Source`."""
        own, info = self.own_name(name), self.tensors[name]
        axis = self._axis(own)
        if axis is None:
            return self._replicated(own)
        if len(self._shards) == 1:
            tensor = self._shards[0].read(own)
        else:
            tensor = np.empty(info.shape, info.dtype)
            for part, shard in zip(np.split(tensor, len(self._shards), axis), self._shards, strict=True):
                part[...] = shard.read(own)
        return in_rotary_halves(name, tensor, self.model)

    def own_name(self, name: str) -> str:
        """See `source.Source`."""
        return _NAMES.own(name)

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """See `source.Source`; the folder's own, or that of the folder around it, where Meta's download puts it.

        SentencePiece for LLaMA 1 and 2; LLaMA 3's list of tokens is written as Hugging Face's files.
        """
        from alpaca_jax.convert.tiktoken_tokenizer import is_tiktoken, write_tokenizer
        from alpaca_jax.data.tokenizer import load_tokenizer

        with explain_os_errors(self.path):
            places = (self.path / _TOKENIZER, self.path.resolve().parent / _TOKENIZER)
            path = next((place for place in places if place.is_file()), None)
            if path is None:
                raise UserError(
                    str(self.path),
                    expected=f"{_TOKENIZER} in it or beside it",
                    found="none",
                    remedy="copy the model's tokenizer into the folder",
                )
            if not is_tiktoken(path):
                return load_tokenizer(path)
        write_tokenizer(path, scratch, since_3_1=self.model.rope_scaling is not None)
        return load_tokenizer(scratch)

    def _axis(self, own: str) -> int | None:
        """The axis that a tensor is divided along among the shards; None where each of them holds it whole."""
        stem = _NAMES.theirs(own).removesuffix(".weight").rsplit(".", 1)[-1]
        if stem in _DIVIDED_BY_ROWS:
            return 0
        if stem in _DIVIDED_BY_COLUMNS:
            return 1
        if own == "tok_embeddings.weight":  # LLaMA 3 divides the vocabulary, the two before it the width
            return 0 if self._shards[0].tensors[own].shape[-1:] == (self._dim,) else 1
        return None

    def _joined(self, own: str) -> TensorInfo:
        """What the shards hold together under one name, after a look that their parts fit."""
        infos = [shard.tensors[own] for shard in self._shards]
        for shard, info in zip(self._shards, infos, strict=True):
            if info != infos[0]:
                raise self._refuse(own, f"{_shown(infos[0])} in each shard", f"{_shown(info)} in {shard.path.name}")
        axis, shape = self._axis(own), infos[0].shape
        if axis is None or axis >= len(shape):
            return infos[0]
        whole = (*shape[:axis], shape[axis] * len(infos), *shape[axis + 1 :])
        return TensorInfo(whole, infos[0].dtype)

    def _replicated(self, own: str) -> np.ndarray:
        """A tensor that each shard holds whole."""
        first, *others = (shard.read(own) for shard in self._shards)
        for shard, other in zip(self._shards[1:], others, strict=True):
            if other.tobytes() != first.tobytes():
                raise self._refuse(own, "the same numbers in each shard", f"others in {shard.path.name}")
        return first

    def _check_shards_belong_together(self, params: MetaParams) -> None:
        first = self._shards[0]
        for shard in self._shards[1:]:
            if different := first.tensors.keys() ^ shard.tensors.keys():
                place = shard if min(different) in first.tensors else first
                raise self._refuse(min(different), "it in each shard", f"none in {place.path.name}")
        query = first.tensors.get("layers.0.attention.wq.weight")
        if query is not None and query.shape and query.shape[0] and params.dim % query.shape[0] == 0:
            wanted = params.dim // query.shape[0]
            if wanted != len(self._shards):
                raise UserError(
                    str(self.path),
                    expected=f"{wanted} shards up to consolidated.{wanted - 1:02}.pth, as its tensors' sizes say",
                    found=str(len(self._shards)),
                    remedy="put the files of one model, and all of them, into the folder",
                )
        if params.n_kv_heads % len(self._shards):
            raise UserError(
                f"{self.path / _PARAMS}, n_kv_heads",
                expected=f"a multiple of the {len(self._shards)} shards, as each holds whole heads of its own",
                found=str(params.n_kv_heads),
                remedy="choose the model in fewer shards, or its Hugging Face form",
            )

    def _head_is_embedding(self) -> bool:
        """Whether the embeddings are tied: the head is not stored, or stored as the same numbers (LLaMA 3.2)."""
        if HEAD.theirs not in self.tensors:
            return True
        head, embedding = self.own_name(HEAD.theirs), self.own_name(EMBEDDING.theirs)
        return all(shard.equal(head, embedding) for shard in self._shards)

    def _refuse(self, own: str, expected: str, found: str) -> UserError:
        return UserError(
            f"{self.path}, tensor {own}", expected=expected, found=found, remedy="download the model's files again"
        )


def _shard_paths(folder: Path) -> list[Path]:
    """`consolidated.00.pth` and on, in their order."""
    with explain_os_errors(folder):
        present = {path.name for path in folder.glob("consolidated.*.pth")}
    names = [f"consolidated.{number:02}.pth" for number in range(max(len(present), 1))]
    for name in names:
        if name not in present:
            raise UserError(
                str(folder),
                expected=f"{name} among its shards",
                found=shorten(sorted(present)) if present else "no consolidated.*.pth",
                remedy="download the missing files of the model",
            )
    return [folder / name for name in names]


def _shown(info: TensorInfo) -> str:
    return f"{info.dtype} {info.shape}"
