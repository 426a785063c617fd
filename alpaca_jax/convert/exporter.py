"""Takes a checkpoint out: a Hugging Face folder that transformers and vLLM load."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alpaca_jax.convert.bits import FLOATS, is_finite, sha256_tensor
from alpaca_jax.convert.certificate import Certificate
from alpaca_jax.convert.checkpoint_source import CheckpointSource
from alpaca_jax.convert.huggingface_config import write_model_config
from alpaca_jax.convert.huggingface_writer import FolderWriter, num_bytes
from alpaca_jax.convert.pipeline import FileSums, ahead
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.tokenizer_export import write_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import new_folder, write_json_atomic
from alpaca_jax.support.progress import ProgressBar

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer


def export_checkpoint(checkpoint: str | Path, out: str | Path, dtype: str | None = None) -> Path:
    """Writes a checkpoint (its newest step, if none is named) as a Hugging Face folder with its tokenizer.

    The tensors stream from disk to disk. The vocabulary's padding is left out. What `convert import` wrote is held
    against its certificate, tensor by tensor.

    Args:
      checkpoint: what `convert import` wrote, or a work directory of `train`.
      out: the folder to make; it must not exist, or be empty.
      dtype: bfloat16, float16 or float32, rounded to nearest, ties to even; None for each tensor's own type, which
        gives back every bit of what was imported.

    Returns:
      The folder.

    Raises:
      UserError: no such checkpoint, or damaged; a number too large for `dtype`; or `out` cannot be written. Nothing is
        left behind.
    """
    if dtype is not None and dtype not in FLOATS:
        raise UserError("--dtype", expected=" or ".join(FLOATS), found=shorten(dtype), remedy="choose one of them")
    source = CheckpointSource(Path(checkpoint))
    wanted = {
        name: TensorInfo(info.shape, info.dtype if dtype is None else FLOATS[dtype])
        for name, info in source.tensors.items()
    }
    tokenizer, main = source.folder.tokenizer(), main_type(wanted)
    _config(source.model, tokenizer, main)  # may be refused, and is so before the work
    with new_folder(out) as unfinished:
        with FileSums(source.files, source.path) as sums:
            records = _write_tensors(source, unfinished, wanted)
            files = sums.result()
        Certificate(source.kind, files, source.model.to_json(), records).write(unfinished)
        write_description(source.model, tokenizer, unfinished, main)
    return Path(out)


def write_description(model: ModelConfig, tokenizer: "Tokenizer", folder: Path, dtype: np.dtype) -> None:
    """Writes what a Hugging Face folder holds besides weights; `config.json` last, without which nothing opens it.

    Args:
      model: the sizes.
      tokenizer: the model's tokenizer.
      folder: where.
      dtype: the type of the tensors, or of most of them.

    Raises:
      UserError: no Hugging Face architecture computes the model, or the folder cannot be written.
    """
    config = _config(model, tokenizer, dtype)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    pad_id = write_tokenizer(tokenizer, model.vocab_size, folder)
    if pad_id is not None:
        special["pad_token_id"] = pad_id
    write_json_atomic(folder / "generation_config.json", special)
    write_json_atomic(folder / "config.json", config | special)


def _config(model: ModelConfig, tokenizer: "Tokenizer", dtype: np.dtype) -> dict[str, Any]:
    return write_model_config(model, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, dtype=str(dtype))


def main_type(tensors: dict[str, TensorInfo]) -> np.dtype:
    """The type that most bytes are of, which config.json names."""
    sizes: Counter[np.dtype] = Counter()
    for info in tensors.values():
        sizes[info.dtype] += num_bytes(info)
    return sizes.most_common(1)[0][0]


def _write_tensors(source: CheckpointSource, folder: Path, wanted: dict[str, TensorInfo]) -> dict[str, dict[str, Any]]:
    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, info in wanted.items():
            tensor = source.read(name)
            if source.certificate is not None and tensor.dtype != info.dtype:
                source.certificate.expect(source, name, sha256_tensor(tensor))
            yield name, _cast(source, name, tensor, info.dtype)

    writer = FolderWriter(folder, wanted)
    with ProgressBar("exporting tensors", len(wanted)) as bar:
        for name, tensor in ahead(tensors()):
            sha256 = writer.write(name, tensor)
            if source.certificate is not None and tensor.dtype == source.tensors[name].dtype:
                source.certificate.expect(source, name, sha256)
            bar.advance(note=name)
    return writer.close()


def _cast(source: CheckpointSource, name: str, tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The tensor in another type, refused where a number would become infinite."""
    if not is_finite(tensor):
        raise _refuse(source, name, "finite numbers", "NaN or infinity", "take an earlier step")
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore"):
        cast = tensor.astype(dtype)
    if not is_finite(cast):
        raise _refuse(source, name, f"numbers that {dtype} can hold", "larger ones", "choose --dtype=bfloat16")
    return cast


def _refuse(source: CheckpointSource, name: str, expected: str, found: str, remedy: str) -> UserError:
    return UserError(f"{source.path}, tensor {name}", expected=expected, found=found, remedy=remedy)
