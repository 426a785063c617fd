"""Brings a foreign checkpoint in: everything is checked, then the folder is filled under another name and renamed.

The tensors stream from the source to the disk: reading, turning, hashing and writing overlap, and no more than a few
tensors are in memory at one time.
"""

import itertools
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alpaca_jax.checkpoint.folder import CheckpointFolder, check_vocabulary
from alpaca_jax.convert.bits import is_finite
from alpaca_jax.convert.certificate import CERTIFICATE, Certificate, tensor_record
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.huggingface_writer import check_room
from alpaca_jax.convert.names import EMBEDDING, HEAD, Correspondence, correspondences, tensors_in_order
from alpaca_jax.convert.pipeline import FileSums, ahead, contiguous
from alpaca_jax.convert.source import Source
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, new_folder
from alpaca_jax.support.hashing import sha256_file
from alpaca_jax.support.progress import ProgressBar

if TYPE_CHECKING:
    from alpaca_jax.checkpoint.streaming import ArrayToCome

# Into how many pieces the axis that FSDP splits is cut: as many as a machine has devices.
_PIECES = 8


def import_checkpoint(source: str | Path, out: str | Path) -> CheckpointFolder:
    """Imports a model with its tokenizer as step 0 of a new checkpoint folder.

    The parameters keep the source's type: bfloat16, float16 or float32, and float32 for a quantised GGUF. Where the
    layers of one parameter differ in type, the stack is float32, which holds them all, and the certificate remembers
    each one's own type.

    Args:
      source: a folder of Hugging Face's or Meta's, or a GGUF file.
      out: the folder to make; it must not exist, or be empty.

    Returns:
      The complete folder.

    Raises:
      UserError: the source is damaged or not supported, or `out` cannot be written; nothing is left behind.
    """
    opened = open_source(source)
    if opened.kind == "alpaca_jax":
        raise UserError(
            str(source),
            expected="a model of another program",
            found="a checkpoint of this project",
            remedy="use it as it is: give it as --checkpoint",
        )
    check_tensors(opened)
    with explain_os_errors("folder for temporary files"), tempfile.TemporaryDirectory() as scratch:
        tokenizer = opened.tokenizer(Path(scratch))
        check_vocabulary(opened.model, tokenizer, str(opened.path))
        with new_folder(out) as unfinished:
            with FileSums(opened.files) as sums:
                records = _stream(opened, unfinished)
                certificate = Certificate(opened.kind, sums.result(), opened.model.to_json(), records)
            certificate.write(unfinished)
            provenance = {"kind": opened.kind, "certificate": sha256_file(unfinished / CERTIFICATE)}
            CheckpointFolder.create(unfinished, opened.model, tokenizer, provenance=provenance, template=None)
    return CheckpointFolder.open(out)


def check_tensors(source: Source) -> None:
    """Holds a source's list of tensors against the table, without reading any.

    Raises:
      UserError: a tensor is missing, unexpected, or of another shape than the model's sizes say; it is named.
    """
    model, remaining = source.model, set(source.tensors)
    for row in correspondences(model):
        for name in row.names(model):
            if name not in remaining:
                raise _refuse(source, name, "it among the tensors", "none", "get the missing files of the model")
            remaining.remove(name)
            _check_shape(source, name, row)
    if model.tied_embeddings and HEAD.theirs in remaining:
        remaining.remove(HEAD.theirs)
        _check_shape(source, HEAD.theirs, HEAD)
    if remaining:
        name = min(remaining)
        found = f"{len(remaining)} that this version does not compute, such as {name}"
        raise _refuse(source, name, "only the tensors of a model of the LLaMA family", found, "choose another model")


def _stream(source: Source, folder: Path) -> dict[str, dict[str, Any]]:
    """Saves the tensors as a step and gives what the certificate says of each.

    Raises:
      UserError: a tensor cannot be read or holds NaN or infinity, or a tied model's head is not its embedding.
    """
    from alpaca_jax.checkpoint.streaming import Part, save_streamed

    model = source.model
    arrays = {row.ours: _array_to_come(source, row) for row in correspondences(model)}
    check_room(folder, sum(array.nbytes for array in arrays.values()))
    records: dict[str, dict[str, Any]] = {}

    def parts() -> Iterator[Part]:
        for row, layer, name in tensors_in_order(model):
            tensor = source.read(name)
            if not is_finite(tensor):
                raise _refuse(source, name, "finite numbers", "NaN or infinity", "download the model again")
            record = hashing.submit(tensor_record, tensor)  # beside the turning: both release Python's lock
            array, ours = arrays[row.ours], row.to_ours(tensor, model)
            for index in _pieces(ours.shape, array.piece[-ours.ndim :]):
                piece = contiguous(ours[index]).astype(array.dtype, copy=False)
                yield Part(row.ours, index if layer is None else (layer, *index), piece)
            records[name] = record.result()
            bar.advance(note=name)

    total = len(list(tensors_in_order(model)))
    with ProgressBar("importing tensors", total) as bar, ThreadPoolExecutor(1) as hashing:
        save_streamed(folder, 0, arrays, ahead(parts()))
    if model.tied_embeddings and HEAD.theirs in source.tensors:
        _check_head_is_embedding(source)
    return records


def _array_to_come(source: Source, row: Correspondence) -> "ArrayToCome":
    """The parameter that a row's tensors become, stored in pieces as FSDP (`parallel/sharding.py`) splits it."""
    from alpaca_jax.checkpoint.streaming import ArrayToCome

    dtypes = {source.tensors[name].dtype for name in row.names(source.model)}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    axes, shape = row.our_axes.split(), row.our_shape(source.model)
    cuts = [_PIECES if axis == "D" and len(axes) > 1 else 1 for axis in axes]
    piece = tuple(size // math.gcd(size, cut) for size, cut in zip(shape, cuts, strict=True))
    if not row.stacked:
        return ArrayToCome(shape, dtype, piece)
    return ArrayToCome((source.model.num_layers, *shape), dtype, (1, *piece))


def _pieces(shape: tuple[int, ...], piece: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Where an array of that shape is cut."""
    for start in itertools.product(*(range(0, size, part) for size, part in zip(shape, piece, strict=True))):
        yield tuple(slice(first, first + part) for first, part in zip(start, piece, strict=True))


def _check_head_is_embedding(source: Source) -> None:
    """A tied model's own head, where its file holds one, must say the same: which one is meant cannot be known."""
    if not np.array_equal(source.read(HEAD.theirs), source.read(EMBEDDING.theirs)):
        raise _refuse(
            source,
            HEAD.theirs,
            "the same numbers as the embedding, since the embeddings are tied",
            "other numbers",
            "correct tie_word_embeddings, or delete the tensor",
        )


def _check_shape(source: Source, name: str, row: Correspondence) -> None:
    wanted, found = row.their_shape(source.model), source.tensors[name].shape
    if found != wanted:
        raise _refuse(source, name, f"shape {wanted}", f"{found}", "check that description and weights belong together")


def _refuse(source: Source, name: str, expected: str, found: str, remedy: str) -> UserError:
    return UserError(f"{source.path}, tensor {source.own_name(name)}", expected=expected, found=found, remedy=remedy)
