"""A GGUF file of the llama architecture (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) as a source."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alpaca_jax.convert.foreign_names import ForeignNames
from alpaca_jax.convert.gguf_rope import ROPE_KEYS, ROPE_TENSOR, read_linear_scaling, with_frequency_divisors
from alpaca_jax.convert.gguf_tokenizer import write_tokenizer
from alpaca_jax.convert.rotary_pairs import in_rotary_halves
from alpaca_jax.convert.source import TensorInfo, make_config
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_ARCHITECTURE = "llama"
_PART_BYTES = 2**25  # dequantised at one time

# GGUF's names for the tensors, in Hugging Face's words.
_NAMES = ForeignNames(
    "blk",
    outside={"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
    inside={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
)

# Keys under `llama.` that sizes are read from, and others with the values that change nothing. Any other key there may
# change what the model computes, so it is refused.
_SIZE_KEYS = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "tensor_data_layout": ("Meta AI original pth", "Meta AI original"),  # the layout that every llama GGUF has
}


class GGUFFile:
    """A `source.Source`; tensors come dequantised to float32.

    Args:
      path: the file.

    Raises:
      UserError: damaged, of another architecture, or with something that this project does not compute.
    """

    kind = "gguf"

    def __init__(self, path: Path):
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        reader = self._open()
        self._fields = reader.fields
        self._own = {_NAMES.theirs(tensor.name): tensor for tensor in reader.tensors}
        divisors = self._own.pop(ROPE_TENSOR, None)
        self._refuse_what_is_not_computed()
        self.model = self._read_model()
        if divisors is not None:
            self.model = with_frequency_divisors(self.model, self._dequantise(divisors), self._refuse)
        self._check_types()
        self.tensors = {
            name: TensorInfo(tuple(int(size) for size in reversed(tensor.shape)), np.dtype(np.float32))
            for name, tensor in self._own.items()
        }

    def read(self, name: str) -> np.ndarray:
        """See `source.Source`."""
        tensor = self._dequantise(self._own[name])
        return in_rotary_halves(name, tensor, self.model)

    def own_name(self, name: str) -> str:
        """See `source.Source`."""
        return _NAMES.own(name)

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """See `source.Source`; the file's own tokenizer, written as Hugging Face's files."""
        from alpaca_jax.data.tokenizer import load_tokenizer

        write_tokenizer(self.value, str(self.path), scratch)
        return load_tokenizer(scratch)

    def value(self, key: str) -> Any:
        """The metadata value under a key (a list for an array), or None."""
        field = self._fields.get(key)
        try:
            return None if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise self._refuse(key, "text in UTF-8", "other bytes") from error

    def _open(self) -> Any:
        from gguf import GGUFReader

        class Reader(GGUFReader):
            def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **options: Any) -> np.ndarray:
                # Otherwise a damaged length of an array is read on to, far behind the file's end.
                numbers = super()._get(offset, dtype, count, *rest, **options)
                if len(numbers) < count:
                    raise ValueError("it ends too early")
                return numbers

        try:
            reader = Reader(self.path)
        except Exception as error:  # on a damaged file the library fails in whatever way its parsing happens to
            raise UserError(
                str(self.path),
                expected="a whole GGUF file of version 2 or 3",
                found=f"one that cannot be parsed ({shorten(str(error))})",
                remedy="download it again",
            ) from error
        if reader.byte_order != "I":
            raise self._refuse("byte order", "this machine's", "the other one")
        return reader

    def _refuse_what_is_not_computed(self) -> None:
        architecture = self.value("general.architecture")
        if architecture != _ARCHITECTURE:
            raise self._refuse("general.architecture", repr(_ARCHITECTURE), shorten(architecture))
        if (self.value("split.count") or 0) > 1:
            raise self._refuse("split.count", "a model in one file", shorten(self.value("split.count")))
        for key in self._fields:
            short = key.removeprefix(f"{_ARCHITECTURE}.")
            if short == key or short in _SIZE_KEYS | ROPE_KEYS:
                continue
            if self.value(key) not in _NEUTRAL.get(short, ()):
                allowed = " or ".join(map(repr, _NEUTRAL.get(short, ()))) or "no such key"
                raise self._refuse(key, allowed, shorten(self.value(key)))

    def _read_model(self) -> ModelConfig:
        embedding = self._own.get("model.embed_tokens.weight")
        if embedding is None:
            raise self._refuse("tensors", "token_embd.weight among them", "none")
        width, vocab_size = self._size("embedding_length"), int(embedding.shape[-1])
        heads = self._size("attention.head_count")
        rotated = self._size("rope.dimension_count", width // heads)
        head_dim = self._size("attention.key_length", rotated)
        for key, wanted in (
            ("rope.dimension_count", head_dim),
            ("attention.value_length", head_dim),
            ("vocab_size", vocab_size),
        ):
            if self._size(key, wanted) != wanted:
                raise self._refuse(f"{_ARCHITECTURE}.{key}", str(wanted), str(self._size(key)))
        return make_config(
            str(self.path),
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=self._size("feed_forward_length"),
            num_layers=self._size("block_count"),
            num_heads=heads,
            num_kv_heads=self._size("attention.head_count_kv", heads),
            head_dim=head_dim,
            max_position_embeddings=self._size("context_length"),
            rope_theta=self._real("rope.freq_base", 10_000.0),
            norm_eps=self._real("attention.layer_norm_rms_epsilon"),
            tied_embeddings="lm_head.weight" not in self._own,
            rope_scaling=read_linear_scaling(
                lambda key: self.value(f"{_ARCHITECTURE}.{key}"),
                lambda key, expected, found: self._refuse(f"{_ARCHITECTURE}.{key}", expected, found),
            ),
        )

    def _check_types(self) -> None:
        """One row of each quantisation is dequantised, so that an unknown one is refused before any work."""
        for kind, tensor in {tensor.tensor_type: tensor for tensor in self._own.values()}.items():
            try:
                self._dequantise(tensor, rows=1)
            except NotImplementedError as error:
                raise self._refuse(
                    f"tensor {tensor.name}", "a quantisation that the gguf library undoes", kind.name
                ) from error

    def _dequantise(self, tensor: Any, rows: int | None = None) -> np.ndarray:
        """The tensor, or its first rows, as float32.

        Read in parts and not through the reader's mapping, whose pages would stay in memory.
        """
        from gguf.quants import dequantize

        stored = tensor.data[:rows]  # a view that gives shape and type; its bytes are not touched
        step = max(1, _PART_BYTES * len(stored) // max(1, stored.nbytes))
        result = np.empty(0, np.float32)
        with explain_os_errors(self.path), open(self.path, "rb") as file:
            file.seek(tensor.data_offset)
            for first in range(0, len(stored), step):
                shape = stored[first : first + step].shape
                raw = np.fromfile(file, stored.dtype, math.prod(shape)).reshape(shape)
                part = dequantize(raw, tensor.tensor_type)
                if first == 0:
                    result = np.empty((len(stored), *part.shape[1:]), np.float32)
                result[first : first + step] = part
        return result

    def _size(self, short: str, default: int | None = None) -> int:
        return self._number(short, int, default)

    def _real(self, short: str, default: float | None = None) -> float:
        # Through float32's shortest decimal form: 1e-05 is stored as 9.999999747378752e-06.
        return float(str(np.float32(self._number(short, float, default))))

    def _number(self, short: str, kind: Any, default: Any) -> Any:
        key = f"{_ARCHITECTURE}.{short}"
        value: Any = self.value(key)
        value = default if value is None else value
        if type(value) is not kind or not 0 < value < np.inf:
            raise self._refuse(key, "one positive number", "none" if value is None else shorten(value))
        return value

    def _refuse(self, subject: str, expected: str, found: str) -> UserError:
        return UserError(
            f"{self.path}, {subject}",
            expected=expected,
            found=found,
            remedy="choose another file of the model, or its safetensors; this version imports nothing else",
        )
