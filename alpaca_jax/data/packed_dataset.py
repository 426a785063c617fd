"""Packed rows as a TFDS dataset on disk, with its provenance and its tokenizer beside it."""

import contextlib
import dataclasses
import io
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from alpaca_jax.data.packing import ROW_DTYPES, Rows
from alpaca_jax.data.prompt import Template, check_template
from alpaca_jax.data.tokenizer import Tokenizer, load_tokenizer
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, new_folder, read_json

FORMAT = "alpaca_jax packed instructions"
FORMAT_VERSION = 2

_PREPARE_AGAIN = "prepare the dataset again with `python -m alpaca_jax.prepare`"


@dataclasses.dataclass(frozen=True)
class PackedDataset:
    """A packed dataset on disk; see `open_packed_dataset`.

    Attributes:
      folder: where it lies.
      seq_len: the length of every row.
      template: the prompt template that made the texts.
      metadata: its provenance and counts, as `prepare` wrote them.
    """

    folder: Path
    seq_len: int
    template: Template
    metadata: dict[str, Any] = dataclasses.field(repr=False)
    _builder: Any = dataclasses.field(repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: `train` and, where some were held out, `eval`."""
        return tuple(self._builder.info.splits)

    def num_rows(self, split: str) -> int:
        """The number of rows in a split.

        Raises:
          UserError: the dataset has no such split.
        """
        if split not in self.splits:
            raise UserError(
                str(self.folder),
                expected=f"a split {split!r}",
                found=f"only {', '.join(self.splits)}",
                remedy="name one of these, or prepare the dataset again with --eval_fraction",
            )
        return self._builder.info.splits[split].num_examples

    def source(self, split: str) -> "RowSource":
        """The rows of a split, by number.

        Raises:
          UserError: the dataset has no such split.
        """
        self.num_rows(split)
        with _quiet(), _explain_damage(self.folder):
            import tensorflow_datasets as tfds

            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            return RowSource(self._builder.as_data_source(split=split, deserialize_method=raw), self.folder)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the rows.

        Raises:
          UserError: its files are missing or are no longer the same.
        """
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        if tokenizer.sha256 != self.metadata["tokenizer_sha256"]:
            raise UserError(
                str(self.folder / "tokenizer"),
                expected=f"the tokenizer that made the dataset (SHA-256 {self.metadata['tokenizer_sha256'][:12]}…)",
                found=f"{tokenizer.sha256[:12]}…",
                remedy=_PREPARE_AGAIN,
            )
        return tokenizer


class RowSource:
    """Random access to rows; row k is a dict of the five arrays of `PackedRow`, each [L] and read-only."""

    def __init__(self, source: Any, folder: Path):
        """Wraps a TFDS data source of undecoded records."""
        from alpaca_jax.data.tfds_builder import decode_row

        self._source, self._folder, self._decode = source, folder, decode_row

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: SupportsIndex) -> dict[str, np.ndarray]:
        """The row.

        Raises:
          IndexError: no such row.
          UserError: its file is damaged.
        """
        if not 0 <= row.__index__() < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        with _explain_damage(self._folder):
            return self._decode(self._source[row])

    def __repr__(self) -> str:
        return f"RowSource({str(self._folder)!r}, rows={len(self)})"


def write_packed_dataset(
    folder: str | Path,
    rows: Mapping[str, Rows],
    seq_len: int,
    metadata: dict[str, Any],
    tokenizer: Tokenizer,
    template: Template,
    beside: Sequence[Path] = (),
) -> None:
    """Writes a dataset that `open_packed_dataset` and plain `tfds.builder_from_directory` read.

    The same rows and metadata give the same bytes. The folder appears when everything is written, or not at all.

    Args:
      folder: where; must not exist, or be empty.
      rows: the rows of each split, in the order in which they are stored; none may be empty.
      seq_len: the length of the rows.
      metadata: what to keep with them; format, lengths and the hashes of template and tokenizer are added.
      tokenizer: is copied along.
      template: what the rows' texts were made with.
      beside: files to move into the folder.

    Raises:
      UserError: the folder has content or cannot be written.
    """
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "seq_len": seq_len,
        "template": template.name,
        "template_sha256": template.sha256,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        **metadata,
    }
    with _quiet():
        import tensorflow_datasets as tfds

        from alpaca_jax.data.tfds_builder import PackedInstructions

    with new_folder(folder) as temporary, _explain_unwritten(folder), _quiet():
        tfds.disable_progress_bar()
        builder = PackedInstructions(rows=rows, seq_len=seq_len, metadata=metadata, data_dir=temporary / "build")
        builder.download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        for file in Path(builder.data_dir).iterdir():
            file.rename(temporary / file.name)
        shutil.rmtree(temporary / "build")
        tokenizer.save(temporary / "tokenizer")
        for path in beside:
            path.replace(temporary / path.name)


def open_packed_dataset(folder: str | Path) -> PackedDataset:
    """Opens what `write_packed_dataset` wrote.

    Raises:
      UserError: no such folder, another kind of dataset, another format version or prompt template, damaged files.
    """
    folder = Path(folder)
    metadata = _read_metadata(folder)
    template = check_template(metadata.get("template"), metadata.get("template_sha256"), str(folder), _PREPARE_AGAIN)
    with _quiet():
        import tensorflow_datasets as tfds
    with _quiet(), _explain_damage(folder):
        builder = tfds.builder_from_directory(folder)
        shapes = {name: feature.shape for name, feature in builder.info.features.items()}
        if shapes != dict.fromkeys(ROW_DTYPES, (metadata["seq_len"],)):
            raise ValueError(f"features.json describes {shapes}")
        if "train" not in builder.info.splits:
            raise ValueError("dataset_info.json names no split `train`")
        for split in builder.info.splits.values():
            for path, rows in zip(split.filepaths, split.shard_lengths, strict=True):
                _check_record_file(str(path), rows)
    return PackedDataset(folder, metadata["seq_len"], template, metadata, builder)


def _check_record_file(path: str, rows: int) -> None:
    """Reads a file's index, which finds missing and cut files now rather than in the middle of a training."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path, "readahead_buffer_size:0")
    try:
        if reader.num_records() != rows:
            raise ValueError(f"{reader.num_records()} rows instead of {rows} in {path}")
    finally:
        reader.close()


def _read_metadata(folder: Path) -> dict[str, Any]:
    """The dataset's own metadata, checked to be of this format."""
    subject = str(folder)
    with explain_os_errors(folder):
        if not folder.is_dir() or not (folder / "metadata.json").is_file():
            otherwise = "a file" if folder.exists() else "no such folder"
            found = "a folder without its metadata.json" if folder.is_dir() else otherwise
            raise UserError(subject, expected="a packed dataset", found=found, remedy="make one with `prepare`")
    metadata = read_json(folder / "metadata.json")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(
            subject, expected="a packed dataset", found="a dataset of another kind", remedy="make one with `prepare`"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        found = f"version {shorten(metadata.get('format_version'))}"
        raise UserError(subject, expected=f"format version {FORMAT_VERSION}", found=found, remedy=_PREPARE_AGAIN)
    missing = {"seq_len", "tokenizer_sha256", "vocab_size"} - metadata.keys()
    if missing:
        found = f"none of {', '.join(sorted(missing))}"
        raise UserError(f"{folder}/metadata.json", expected="complete metadata", found=found, remedy=_PREPARE_AGAIN)
    return metadata


@contextlib.contextmanager
def _explain_unwritten(folder: str | Path) -> Iterator[None]:
    """Turns what ArrayRecord raises when a file cannot be written (it knows no `OSError`) into one line."""
    try:
        yield
    except RuntimeError as error:
        refusal = re.search(r"failed: ([^;:]+);", str(error))
        if refusal is None:
            raise
        raise UserError(
            str(folder),
            expected="to write there",
            found=refusal[1].lower(),
            remedy="free some room or choose another place",
        ) from error


@contextlib.contextmanager
def _explain_damage(folder: Path) -> Iterator[None]:
    """Turns whatever TFDS and ArrayRecord raise over missing or damaged files into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = shorten(f"{type(error).__name__}: {error}", 160)
        raise UserError(
            str(folder), expected="an undamaged packed dataset", found=found, remedy=_PREPARE_AGAIN
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's prints and log lines, which are not meant for our users, off the terminal."""
    absl = logging.getLogger("absl")
    before = absl.level
    absl.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(before)
