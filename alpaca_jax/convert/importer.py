"""Brings a foreign checkpoint in: everything is checked, then the folder is filled under another name and renamed."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import alpaca_jax
from alpaca_jax.checkpoint.folder import CheckpointFolder, check_vocabulary
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.names import EMBEDDING, HEAD, Correspondence, correspondences
from alpaca_jax.convert.source import Source
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, new_folder
from alpaca_jax.support.hashing import sha256_file
from alpaca_jax.support.progress import ProgressBar, track


def import_checkpoint(source: str | Path, out: str | Path) -> CheckpointFolder:
    """Imports a model with its tokenizer as step 0 of a new checkpoint folder.

    The parameters keep the source's type: bfloat16, float16 or float32, and float32 for a quantised GGUF. Where the
    layers of one parameter differ in type, the stack is float32, which holds them all.

    Args:
      source: a Hugging Face folder or a GGUF file.
      out: the folder to make; it must not exist, or be empty.

    Returns:
      The complete folder.

    Raises:
      UserError: the source is damaged or not supported, or `out` cannot be written; nothing is left behind.
    """
    opened = open_source(source)
    check_tensors(opened)
    with explain_os_errors("folder for temporary files"), tempfile.TemporaryDirectory() as scratch:
        tokenizer = opened.tokenizer(Path(scratch))
        check_vocabulary(opened.model, tokenizer, str(opened.path))
        with new_folder(out) as unfinished:
            _check_room(opened, unfinished)
            parameters = read_parameters(opened)
            _save(unfinished, parameters)
            provenance = _provenance(opened)
            CheckpointFolder.create(unfinished, opened.model, tokenizer, provenance=provenance, fine_tuned=False)
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
        raise _refuse(source, name, "only the tensors of a plain LLaMA", found, "choose another model")


def read_parameters(source: Source) -> dict[str, Any]:
    """The parameter tree, read tensor by tensor with a progress bar, as numpy arrays on the host.

    Raises:
      UserError: a tensor cannot be read or holds NaN or infinity, or a tied model's head is not its embedding.
    """
    tree: dict[str, Any] = {}
    rows = correspondences(source.model)
    with ProgressBar("importing tensors", sum(len(list(row.names(source.model))) for row in rows)) as bar:
        for row in rows:
            *parents, leaf = row.ours.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = _read_parameter(source, row, bar)
    if source.model.tied_embeddings and HEAD.theirs in source.tensors:
        _check_head_is_embedding(source)
    return tree


def _read_parameter(source: Source, row: Correspondence, bar: ProgressBar) -> np.ndarray:
    """One parameter, its layers stacked."""
    names = list(row.names(source.model))
    dtypes = {source.tensors[name].dtype for name in names}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    stack = np.empty((len(names), *row.our_shape(source.model)), dtype)
    for index, name in enumerate(names):
        tensor = source.read(name)
        if not np.isfinite(tensor).all():
            raise _refuse(source, name, "finite numbers", "NaN or infinity", "download the model again")
        stack[index] = row.to_ours(tensor, source.model)
        bar.advance(note=name)
    return stack if row.stacked else stack[0]


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


def _check_room(source: Source, folder: Path) -> None:
    """Refuses a disk without room for the parameters before anything is read or written."""
    sizes = (math.prod(info.shape) * info.dtype.itemsize for info in source.tensors.values())
    needed, free = sum(sizes) / 2**20, shutil.disk_usage(folder).free / 2**20
    if free < needed:
        raise UserError(
            str(folder.parent),
            expected=f"room for {needed:,.0f} MiB on its disk",
            found=f"{free:,.0f} MiB",
            remedy="free some room or choose another place",
        )


def _save(folder: Path, parameters: dict[str, Any]) -> None:
    from alpaca_jax.checkpoint.store import Store

    store = Store(folder)
    try:
        store.save(0, parameters)
        store.close()
    except KeyboardInterrupt:
        store.close()  # Orbax's threads must end before the folder that they write to is removed
        raise


def _provenance(source: Source) -> dict[str, Any]:
    files = []
    for file in track(source.files, "hashing source files"):
        with explain_os_errors(file):
            files.append({"name": file.name, "sha256": sha256_file(file)})
    return {"kind": source.kind, "files": files, "alpaca_jax": alpaca_jax.__version__}


def _refuse(source: Source, name: str, expected: str, found: str, remedy: str) -> UserError:
    return UserError(f"{source.path}, tensor {source.own_name(name)}", expected=expected, found=found, remedy=remedy)
