"""Makes a weight diff: what turns a base model that may not be passed on into a tuned one, useless without the base."""

import contextlib
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alpaca_jax.convert.additive import Additive
from alpaca_jax.convert.bits import is_finite, sha256_tensor
from alpaca_jax.convert.carried_files import CONFIG, carry_files, hash_files
from alpaca_jax.convert.checkpoint_source import CheckpointSource
from alpaca_jax.convert.diff_manifest import ADDITIVE, XOR, Manifest, TensorRecord
from alpaca_jax.convert.exporter import main_type, write_description
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.huggingface import HuggingFaceFolder
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.convert.importer import check_tensors
from alpaca_jax.convert.source import Source
from alpaca_jax.convert.weight_diff import Mode, Xor, match_base, read_pairs
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, new_folder, read_json, write_json_atomic
from alpaca_jax.support.progress import ProgressBar


def make_diff(base: str | Path, tuned: str | Path, out: str | Path, mode: str = XOR) -> str:
    """Writes what `recover` makes the tuned model from, given the base.

    Args:
      base: the model that the tuned one was trained from; anything that can be imported, or a checkpoint.
      tuned: the tuned model, likewise.
      out: the folder to make; it must not exist, or be empty.
      mode: `xor`, the bits of both XORed, which recovers every bit; or `additive`, float32 tuned − base in an ordinary
        Hugging Face folder, as Alpaca's was published.

    Returns:
      What was written, in a line.

    Raises:
      UserError: a model is damaged, they do not belong together, or `out` cannot be written; nothing is left behind.
    """
    if mode not in (XOR, ADDITIVE):
        raise UserError("--mode", expected=f"{XOR} or {ADDITIVE}", found=mode, remedy="choose one of them")
    theirs, mine = open_source(base), open_source(tuned)
    for source in (theirs, mine):
        check_tensors(source)
    pairs = match_base(theirs, mine.tensors)
    way: Mode = Xor() if mode == XOR else Additive(mine.model)
    with new_folder(out) as unfinished:
        records = _write_tensors(theirs, mine, pairs, way, unfinished)
        _describe(mine, unfinished)
        if mode == ADDITIVE:
            _declare_float32(unfinished / CONFIG)
        Manifest(mode, records, hash_files(unfinished), way.figures()).write(unfinished)
    return _summary(len(records), way.figures())


def _write_tensors(
    base: Source, tuned: Source, pairs: dict[str, str], mode: Mode, folder: Path
) -> dict[str, TensorRecord]:
    infos = {name: mode.infos(tuned.tensors[name]) for name in pairs}
    writer = FolderWriter(folder, {name: stored for name, (stored, _) in infos.items()}, stem=mode.stem)
    records = {}
    with (
        ProgressBar("comparing tensors", len(pairs)) as bar,
        ThreadPoolExecutor(2) as hashing,
        contextlib.closing(read_pairs(base, tuned.read, pairs)) as reading,
    ):
        for name, given, wanted in reading:
            sums = [hashing.submit(sha256_tensor, tensor) for tensor in (given, wanted)]
            _check_finite(base, pairs[name], given)
            _check_finite(tuned, name, wanted)
            difference, result = mode.make(given, wanted)
            if result is not wanted:
                sums.append(hashing.submit(sha256_tensor, result))
            diff_sha256 = writer.write(name, difference)
            base_sha256, tuned_sha256, *_ = sha256s = [each.result() for each in sums]
            _check_certificate(base, pairs[name], base_sha256)
            _check_certificate(tuned, name, tuned_sha256)
            records[name] = TensorRecord(
                infos[name][1], base.tensors[pairs[name]], base_sha256, diff_sha256, sha256s[-1]
            )
            bar.advance(note=name)
            del given, wanted, difference, result  # before the next pair comes
    writer.close()
    return records


def _check_finite(source: Source, name: str, tensor: np.ndarray) -> None:
    if not is_finite(tensor):
        raise UserError(
            f"{source.path}, tensor {source.own_name(name)}",
            expected="finite numbers",
            found="NaN or infinity",
            remedy="give a model that is whole",
        )


def _check_certificate(source: Source, name: str, sha256: str) -> None:
    """A checkpoint that was imported must still be what it was."""
    if isinstance(source, CheckpointSource) and source.certificate is not None:
        source.certificate.expect(source, name, sha256)


def _describe(tuned: Source, folder: Path) -> None:
    """Writes what goes along with the weights: the tuned model's own files, or the like of them."""
    if isinstance(tuned, HuggingFaceFolder):
        return carry_files(tuned.path, folder)
    with explain_os_errors("folder for temporary files"), tempfile.TemporaryDirectory() as scratch:
        write_description(tuned.model, tuned.tokenizer(Path(scratch)), folder, main_type(tuned.tensors))


def _declare_float32(config: Path) -> None:
    """Has the description say what the additive form's tensors are, whatever the tuned ones were."""
    value = read_json(config)
    declared = {key: "float32" for key in ("dtype", "torch_dtype") if key in value}
    write_json_atomic(config, value | declared)


def _summary(tensors: int, figures: Mapping[str, float]) -> str:
    if not figures:
        return f"{tensors} tensors, recovered bit for bit"
    return (
        f"{tensors} tensors; the recovered elements' sum is {figures['sum']:.4f}, or "
        f"{figures['sum_with_rotary_buffers']:.4f} with the rotary buffers; {figures['inexact_elements']:,} of them "
        f"differ from the tuned ones, by {figures['largest_error']:.3g} at most, as float32 rounds"
    )
