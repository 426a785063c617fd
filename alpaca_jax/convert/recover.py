"""Recovers a tuned model from its base and a weight diff: the base is checked first, then each result."""

import contextlib
import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alpaca_jax.convert.additive import Additive
from alpaca_jax.convert.bits import is_finite, sha256_tensor
from alpaca_jax.convert.carried_files import CONFIG, carry_files, hash_files
from alpaca_jax.convert.certificate import Certificate
from alpaca_jax.convert.diff_manifest import BITS_FORM, MANIFEST, XOR, Manifest
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.huggingface import FolderOfWeights, HuggingFaceFolder
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.convert.importer import check_tensors
from alpaca_jax.convert.pipeline import FileSums, ahead
from alpaca_jax.convert.source import Source, TensorInfo
from alpaca_jax.convert.weight_diff import Mode, Xor, match_base, read_pairs, wrong_base
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import new_folder, read_json
from alpaca_jax.support.progress import ProgressBar


def recover(base: str | Path, diff: str | Path, out: str | Path, expect_sum: float | None = None) -> str:
    """Makes the tuned model again, as a Hugging Face folder.

    With `make_diff`'s manifest every tensor of the base is checked before anything is written, and every tensor of the
    diff and of the result along the way. A folder without one is taken for a published additive diff, of which nothing
    can be checked but the sum of all elements of the result.

    Args:
      base: the model that the tuned one was trained from; anything that can be imported, or a checkpoint.
      diff: the diff's folder.
      out: the folder to make; it must not exist, or be empty.
      expect_sum: additive diffs: the sum of all elements, with or without the rotary buffers of old files.

    Returns:
      What was recovered and how it was checked, in a line.

    Raises:
      UserError: base and diff do not belong together, something is damaged, the sum is another, or `out` cannot be
        written; the tensor is named where one is at fault, and nothing is left behind.
    """
    if expect_sum is not None and not math.isfinite(expect_sum):
        raise UserError("--expect_sum", expected="a number", found=str(expect_sum), remedy="give the published sum")
    opened, source = _open_diff(Path(diff)), open_source(base)
    if expect_sum is not None and not isinstance(opened.mode, Additive):
        found = "one in xor mode, of which SHA-256 checks every tensor"
        raise UserError("--expect_sum", expected="an additive diff", found=found, remedy="leave the flag out")
    check_tensors(source)
    pairs = match_base(source, opened.results)
    if opened.manifest is not None:
        _check_base(source, pairs, opened.manifest)
    # The manifest vouches for every tensor of base and diff; where there is none, their files are what is known.
    files = [*source.files, *opened.weights.files] if opened.manifest is None else [opened.path / MANIFEST]
    with new_folder(out) as unfinished, FileSums(files) as sums:
        tensors = _write_tensors(source, pairs, opened, unfinished)
        checked = _check_sum(opened, expect_sum)
        Certificate("weight diff", sums.result(), opened.model.to_json(), tensors).write(unfinished)
        carry_files(opened.path, unfinished)
    return f"{len(pairs)} tensors; {checked}"


@dataclasses.dataclass(frozen=True)
class _Diff:
    """A diff's folder, opened: what its files hold, and what each tensor of the result will be."""

    path: Path
    model: ModelConfig
    manifest: Manifest | None
    mode: Mode
    weights: FolderOfWeights | HuggingFaceFolder
    results: dict[str, TensorInfo]


def _open_diff(folder: Path) -> _Diff:
    """Opens a diff and holds its files against its manifest, where it has one."""
    config = folder / CONFIG
    if not config.is_file():
        found = f"no {CONFIG} in it" if folder.is_dir() else "no such folder"
        raise UserError(str(folder), expected="the folder of a weight diff", found=found, remedy="check the path")
    model = read_model_config(read_json(config), str(config))
    manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    weights: FolderOfWeights | HuggingFaceFolder
    mode: Mode
    if manifest is not None and manifest.mode == XOR:
        weights, mode = FolderOfWeights(folder, (BITS_FORM,)), Xor()
    else:
        weights = HuggingFaceFolder(folder)
        check_tensors(weights)
        mode = Additive(model)
    if manifest is None:
        results = {name: mode.infos(info)[1] for name, info in weights.tensors.items()}
        return _Diff(folder, model, None, mode, weights, results)
    results = {name: record.info for name, record in manifest.tensors.items()}
    for name in results.keys() | weights.tensors.keys():
        if name not in results or weights.tensors.get(name) != mode.infos(results[name])[0]:
            raise _damaged(folder, f"tensor {name}", "the tensor that the manifest describes", "another, or none")
    files = hash_files(folder)
    for name in manifest.files.keys() | files.keys():
        _check_sha256(folder, name, manifest.files.get(name, ""), files.get(name, ""))
    return _Diff(folder, model, manifest, mode, weights, results)


def _check_base(base: Source, pairs: dict[str, str], manifest: Manifest) -> None:
    """Holds every tensor of the base against the manifest; the first wrong one ends it."""
    for name, theirs in pairs.items():
        wanted, found = manifest.tensors[name].base_info, base.tensors[theirs]
        if found != wanted:
            raise wrong_base(base, theirs, f"{wanted.dtype} {wanted.shape}", f"{found.dtype} {found.shape}")
    with (
        ProgressBar("checking the base", len(pairs)) as bar,
        contextlib.closing(ahead(base.read(theirs) for theirs in pairs.values())) as tensors,
    ):
        for name, tensor in zip(pairs, tensors, strict=True):
            expected, sha256 = manifest.tensors[name].base, sha256_tensor(tensor)
            if sha256 != expected:
                raise wrong_base(base, pairs[name], _short(expected), _short(sha256))
            bar.advance(note=name)


def _write_tensors(base: Source, pairs: dict[str, str], diff: _Diff, folder: Path) -> dict[str, dict[str, Any]]:
    writer = FolderWriter(folder, diff.results)
    with (
        ProgressBar("recovering tensors", len(pairs)) as bar,
        ThreadPoolExecutor(1) as hashing,
        contextlib.closing(read_pairs(base, diff.weights.read, pairs)) as reading,
    ):
        for name, given, difference in reading:
            diff_sha256 = hashing.submit(sha256_tensor, difference)
            result = diff.mode.recover(given, difference, diff.results[name])
            sha256 = writer.write(name, result)
            if diff.manifest is not None:
                record = diff.manifest.tensors[name]
                _check_sha256(diff.path, f"tensor {name}", record.diff, diff_sha256.result())
                _check_sha256(diff.path, f"tensor {name} recovered", record.result, sha256)
            elif not is_finite(result):
                raise _damaged(diff.path, f"tensor {name} recovered", "finite numbers", "NaN or infinity")
            bar.advance(note=name)
            del given, difference, result  # before the next pair comes
    return writer.close()


def _check_sum(diff: _Diff, expected: float | None) -> str:
    """Holds the sum of all elements against what was expected; says what was checked, and how."""
    unchecked = f"UNCHECKED, as the diff has no {MANIFEST} and --expect_sum was not given"
    checked = unchecked if diff.manifest is None else "SHA-256 of each as it should be"
    if not isinstance(diff.mode, Additive):
        return checked
    total = diff.mode.sum
    if expected is None:
        sums = f"sum of all elements {total.without_buffers:.4f}, with rotary buffers {total.with_buffers:.4f}"
        return f"{checked}; {sums}"
    if (match := total.match(expected)) is None:
        raise UserError(
            "--expect_sum",
            expected=f"{expected} as the sum of all recovered elements",
            found=f"{total.without_buffers:.4f}, or {total.with_buffers:.4f} with rotary buffers",
            remedy="check that base and diff belong together and are whole",
        )
    return f"{match}" if diff.manifest is None else f"{checked}; {match}"


def _check_sha256(folder: Path, what: str, wanted: str, found: str) -> None:
    if wanted != found:
        raise _damaged(folder, what, _short(wanted), _short(found))


def _short(sha256: str) -> str:
    return f"SHA-256 {sha256[:12]}" if sha256 else "no such file"


def _damaged(folder: Path, what: str, expected: str, found: str) -> UserError:
    remedy = "get the diff again from where it was published"
    return UserError(f"{folder}, {what}", expected=expected, found=found, remedy=remedy)
