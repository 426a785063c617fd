"""From instruction files to a packed dataset on disk: what `prepare` does, in order."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax.data.examples import Dropped, Example, make_example
from alpaca_jax.data.instructions import Instruction, read_instructions
from alpaca_jax.data.packed_dataset import FORMAT_VERSION, open_packed_dataset, write_packed_dataset
from alpaca_jax.data.packing import PackedRow, best_fit_decreasing, pack
from alpaca_jax.data.prompt import template_sha256
from alpaca_jax.data.tokenizer import Tokenizer, load_tokenizer
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.hashing import sha256_file, sha256_json, sha256_text
from alpaca_jax.support.progress import ProgressBar, track

# Eight characters of prompt and answer would not make a record; a row of a million is beyond any model here.
MIN_SEQ_LEN, MAX_SEQ_LEN = 8, 2**20


@dataclasses.dataclass(frozen=True)
class Request:
    """What to prepare, and from what; equal requests give equal bytes.

    Attributes:
      inputs: instruction files, read in this order.
      tokenizer: a tokenizer's file or folder.
      seq_len: the length of the rows.
      seed: of the order in which the records are packed, which decides which of them share a row.
      eval_fraction: the share of the records held out for evaluation, chosen by a hash of each record.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    seq_len: int
    seed: int = 0
    eval_fraction: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
          UserError: `seq_len`, `seed` or `eval_fraction` is outside it, or there is no input.
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


def prepare(request: Request, out: str | Path) -> tuple[dict[str, Any], bool]:
    """Tokenises, splits, packs and writes; does nothing where `out` already holds the same.

    Returns:
      The dataset's metadata, and whether it was already there.

    Raises:
      UserError: an unreadable input, no usable record, or an `out` that holds something else or cannot be written.
    """
    out = Path(out)
    _check_place(out)
    tokenizer = load_tokenizer(request.tokenizer)
    sources = [_source(path) for path in request.inputs]
    if out.is_dir() and any(out.iterdir()):
        return _existing(out, _identity(request, sources, tokenizer)), True

    examples, counts = _tokenise(request, sources, tokenizer)
    order = sorted(range(len(examples)), key=lambda index: sha256_text(f"{request.seed}:{index}"))
    splits: dict[str, list[Example]] = {"train": [], "eval": []}
    for index in order:
        split, example = examples[index]
        splits[split].append(example)
    _check_splits(request, {split: len(members) for split, members in splits.items()}, counts)
    if not request.eval_fraction:
        del splits["eval"]
    counts |= _packed_counts(splits, request.seq_len)
    metadata = {
        "seed": request.seed,
        "eval_fraction": request.eval_fraction,
        "sources": sources,
        "counts": counts,
        "identity": _identity(request, sources, tokenizer),
    }
    with ProgressBar("writing rows", counts["rows"]) as bar:
        rows = {split: _counted(pack(members, request.seq_len), bar) for split, members in splits.items()}
        write_packed_dataset(out, rows, request.seq_len, metadata, tokenizer)
    return open_packed_dataset(out).metadata, False


def _check_place(out: Path) -> None:
    """Refuses an unwritable place now rather than after the work; what is really written is checked again then."""
    with explain_os_errors(out):
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise UserError(str(nearest), expected="a folder", found="a file", remedy="choose another --out")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(
                str(nearest),
                expected="a folder to write in",
                found="one that is read-only",
                remedy="choose another --out, or change its permissions",
            )


def _source(path: Path) -> dict[str, Any]:
    """The provenance of an input file."""
    with explain_os_errors(path):
        sha256 = sha256_file(path)
        if not path.is_file():
            raise UserError(
                str(path), expected="a file, which is read twice", found="a pipe or device", remedy="write it to a file"
            )
    return {"name": path.name, "sha256": sha256}


def _identity(request: Request, sources: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the rows: two preparations with equal identities write the same dataset."""
    return {
        "inputs": [source["sha256"] for source in sources],
        "tokenizer": tokenizer.sha256,
        "template": template_sha256(),
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


def _tokenise(
    request: Request, sources: list[dict[str, Any]], tokenizer: Tokenizer
) -> tuple[list[tuple[str, Example]], dict[str, Any]]:
    """Every usable record as (split, example), and what was counted; adds its record count to each source."""
    examples: list[tuple[str, Example]] = []
    dropped: Counter[str] = Counter()
    for path, source in zip(request.inputs, sources, strict=True):
        records = 0
        for instruction in track(read_instructions(path), f"tokenising {path.name}"):
            records += 1
            example = make_example(instruction, tokenizer, request.seq_len)
            if isinstance(example, Dropped):
                dropped[example.reason] += 1
            else:
                examples.append((_split_of(instruction, request.eval_fraction), example))
        source["records"] = records
    counts = {
        "records": sum(source["records"] for source in sources),
        "kept": len(examples),
        "dropped": dict(sorted(dropped.items())),
        "truncated": sum(example.truncated for _, example in examples),
    }
    return examples, counts


def _split_of(instruction: Instruction, eval_fraction: float) -> str:
    """The side a record is on: a function of its text and the fraction alone, and monotone in the fraction."""
    if not eval_fraction:
        return "train"
    digest = sha256_json([instruction.instruction, instruction.input, instruction.output])
    return "eval" if int(digest[:13], 16) < eval_fraction * 16**13 else "train"


def _check_splits(request: Request, sizes: dict[str, int], counts: dict[str, Any]) -> None:
    if not counts["kept"]:
        reasons = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items())
        raise UserError(
            ", ".join(map(str, request.inputs)),
            expected="at least one record to train on",
            found=f"{counts['records']} records, all dropped ({reasons})",
            remedy="see the reasons: give records with an output, or raise --seq_len",
        )
    for split in ("train", "eval") if request.eval_fraction else ("train",):
        if not sizes[split]:
            raise UserError(
                "--eval_fraction",
                expected="at least one record on each side of the split",
                found=f"none of {counts['kept']} records in {split} with {request.eval_fraction}",
                remedy="change it, leave it out, or give more records",
            )


def _counted(rows: Iterator[PackedRow], bar: ProgressBar) -> Iterator[PackedRow]:
    for row in rows:
        yield row
        bar.advance()


def _packed_counts(splits: dict[str, list[Example]], seq_len: int) -> dict[str, Any]:
    """Counts of what the rows will hold: places filled, targets trained, rows, and the share of places filled."""
    lengths = {split: [len(example.tokens) - 1 for example in members] for split, members in splits.items()}
    rows = {split: len(best_fit_decreasing(members, seq_len)) for split, members in lengths.items()}
    tokens = sum(map(sum, lengths.values()))
    return {
        "tokens": tokens,
        "target_tokens": sum(int(example.loss_mask[1:].sum()) for members in splits.values() for example in members),
        "rows": sum(rows.values()),
        "fill": round(tokens / (sum(rows.values()) * seq_len), 6),
        "split_rows": rows,
    }
