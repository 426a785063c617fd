"""From instruction files to a packed dataset on disk: what `prepare` does, in order."""

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from alpaca_jax.data.collection import REJECTED, Collection, collect
from alpaca_jax.data.examples import Tokenization
from alpaca_jax.data.packed_dataset import FORMAT_VERSION, open_packed_dataset, write_packed_dataset
from alpaca_jax.data.packing import PackedRow, PackedRows, Rows
from alpaca_jax.data.prompt import DEFAULT_TEMPLATE, template_named
from alpaca_jax.data.tokenising import Tokenising, shuffled
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import check_folder_place, explain_os_errors
from alpaca_jax.support.hashing import sha256_file
from alpaca_jax.support.progress import ProgressBar

# Eight characters of prompt and answer would not make a record; a row of a million is beyond any model here.
MIN_SEQ_LEN, MAX_SEQ_LEN = 8, 2**20
# A mixture in which one file counts a thousand times as much as another is a mistake.
MAX_WEIGHT = 1000
# Moving a bar takes longer than making a row.
_ROWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Request:
    """What to prepare, and from what; equal requests give equal bytes.

    Attributes:
      inputs: instruction files, read in this order.
      tokenizer: a tokenizer's file or folder.
      seq_len: the length of the rows.
      seed: of the order in which the records are packed, which decides which of them share a row, and of the choice
        that a weight leaves open.
      eval_fraction: the share of the records held out for evaluation, chosen by a hash of each record.
      weights: how often each record of each input is packed (see `tokenising.copies_of`); none for once each.
      template: the name of the prompt template.
      tokenization: how prompt and answer become tokens; see `examples.make_examples`.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    seq_len: int
    seed: int = 0
    eval_fraction: float = 0.0
    weights: tuple[float, ...] = ()
    template: str = DEFAULT_TEMPLATE
    tokenization: Tokenization = "exact"

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
          UserError: a field is outside it, or there is no input.
        """
        if not self.inputs:
            raise UserError("--input", expected="at least one file", found="none", remedy="give an instruction file")
        if not MIN_SEQ_LEN <= self.seq_len <= MAX_SEQ_LEN:
            expected = f"a number from {MIN_SEQ_LEN} to {MAX_SEQ_LEN}"
            raise UserError("--seq_len", expected=expected, found=str(self.seq_len), remedy="try 512, as Alpaca did")
        if self.seed < 0:
            raise UserError("--seed", expected="0 or more", found=str(self.seed), remedy="leave out the sign")
        if not 0 <= self.eval_fraction < 1:
            found = str(self.eval_fraction)
            raise UserError("--eval_fraction", expected="0 or more, below 1", found=found, remedy="try 0.05")
        if not self.weights:
            object.__setattr__(self, "weights", (1.0,) * len(self.inputs))
        in_range = all(math.isfinite(weight) and 0 <= weight <= MAX_WEIGHT for weight in self.weights)
        if len(self.weights) != len(self.inputs) or not in_range or not any(self.weights):
            raise UserError(
                "--weights",
                expected=f"{len(self.inputs)} numbers from 0 to {MAX_WEIGHT}, one for each --input, not all 0",
                found=",".join(f"{weight:g}" for weight in self.weights),
                remedy="write them with commas, in the order of the inputs",
            )
        template_named(self.template)
        if self.tokenization not in get_args(Tokenization):
            expected = " or ".join(get_args(Tokenization))
            raise UserError("--tokenization", expected=expected, found=self.tokenization, remedy="try exact")


def parse_weights(text: str) -> tuple[float, ...]:
    """The numbers of `--weights`, which are written with commas between them; none where the text is empty.

    Raises:
      UserError: one of them is no number.
    """
    try:
        return tuple(map(float, text.split(","))) if text else ()
    except ValueError as error:
        raise UserError(
            "--weights", expected="numbers with commas between them", found=repr(text), remedy="write 1,0.5 or the like"
        ) from error


def prepare(request: Request, out: str | Path) -> tuple[dict[str, Any], bool]:
    """Tokenises, splits, packs and writes; does nothing where `out` already holds the same.

    The records pass through: what is held of each in memory is a few numbers, whatever its length. The tokens lie in a
    hidden folder beside `out` until they are packed; it goes, and `out` does not appear, if anything fails.

    Returns:
      The dataset's metadata, and whether it was already there.

    Raises:
      UserError: an unreadable input, no usable record, or an `out` that holds something else or cannot be written.
    """
    out = Path(out)
    check_folder_place(out)
    work = Tokenising(
        request.tokenizer,
        request.template,
        request.tokenization,
        request.seq_len,
        request.seed,
        request.eval_fraction,
    )
    sources = [_source(path, weight) for path, weight in zip(request.inputs, request.weights, strict=True)]
    identity = _identity(request, sources, work.tokenizer)
    if out.is_dir() and any(out.iterdir()):
        return _existing(out, identity), True

    with explain_os_errors(out), _hidden_folder(out) as hidden:
        inputs = list(zip(request.inputs, request.weights, strict=True))
        collection = collect(work, inputs, Path(hidden))
        rows = _pack(request, collection)
        metadata = {
            "seed": request.seed,
            "eval_fraction": request.eval_fraction,
            "tokenization": request.tokenization,
            "sources": [source | counts for source, counts in zip(sources, collection.by_source, strict=True)],
            "counts": collection.counts | _row_counts(rows, request.seq_len),
            "identity": identity,
        }
        with ProgressBar("writing rows", sum(map(len, rows.values()))) as bar:
            write_packed_dataset(
                out,
                {split: _Watched(members, bar) for split, members in rows.items()},
                request.seq_len,
                metadata,
                work.tokenizer,
                template_named(request.template),
                beside=[Path(hidden) / REJECTED],
            )
    return open_packed_dataset(out).metadata, False


def _hidden_folder(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for what is needed only meanwhile, on the disk where `out` will be."""
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    return tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=nearest)


def _source(path: Path, weight: float) -> dict[str, Any]:
    """The provenance of an input file."""
    with explain_os_errors(path):
        sha256 = sha256_file(path)
        if not path.is_file():
            raise UserError(
                str(path), expected="a file, which is read twice", found="a pipe or device", remedy="write it to a file"
            )
    return {"name": path.name, "sha256": sha256, "weight": weight}


def _identity(request: Request, sources: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the rows: two preparations with equal identities write the same dataset."""
    return {
        "inputs": [source["sha256"] for source in sources],
        "weights": [source["weight"] for source in sources],
        "tokenizer": tokenizer.sha256,
        "template": template_named(request.template).sha256,
        "tokenization": request.tokenization,
        "seq_len": request.seq_len,
        "seed": request.seed,
        "eval_fraction": request.eval_fraction,
        "format_version": FORMAT_VERSION,
    }


def _existing(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the dataset at `out`, if it is the one that was asked for."""
    if not (out / "metadata.json").is_file():
        raise UserError(
            str(out), expected="a new or empty folder", found="one with other content", remedy="choose another --out"
        )
    dataset = open_packed_dataset(out)
    dataset.tokenizer()
    there = dataset.metadata.get("identity", {})
    for key, wanted in identity.items():
        if there.get(key) != wanted:
            raise UserError(
                str(out),
                expected=f"nothing, or the same dataset ({key} {shorten(wanted, 30)})",
                found=f"a dataset with {key} {shorten(there.get(key), 30)}",
                remedy="choose another --out, or delete that folder",
            )
    return dataset.metadata


def _pack(request: Request, collection: Collection) -> dict[str, PackedRows]:
    """The rows of each split; the seed decides which records share one.

    Raises:
      UserError: nothing to evaluate on, or nothing to train on.
    """
    order = shuffled(len(collection.copies), request.seed)
    rows = {}
    for split, held_out in (("train", False), ("eval", True)) if request.eval_fraction else (("train", False),):
        members = order[collection.held_out[order] == held_out]
        if not len(members):
            raise UserError(
                "--eval_fraction",
                expected="at least one record on each side of the split",
                found=f"none of {len(order)} records in {split} with {request.eval_fraction}",
                remedy="change it, leave it out, or give more records",
            )
        rows[split] = PackedRows(collection.table, np.repeat(members, collection.copies[members]), request.seq_len)
    return rows


def _row_counts(rows: Mapping[str, PackedRows], seq_len: int) -> dict[str, Any]:
    """Counts of what the rows hold: places filled, rows, and the share of places filled."""
    split_rows = {split: len(members) for split, members in rows.items()}
    tokens = sum(members.filled_places for members in rows.values())
    return {
        "tokens": tokens,
        "rows": sum(split_rows.values()),
        "fill": round(tokens / (sum(split_rows.values()) * seq_len), 6),
        "split_rows": split_rows,
    }


class _Watched:
    """Rows that move a bar as they are taken."""

    def __init__(self, rows: Rows, bar: ProgressBar):
        self._rows, self._bar = rows, bar

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[PackedRow]:
        rows = iter(self._rows)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            self._bar.advance(len(some))  # nobody may ask for more after the last
            yield from some
