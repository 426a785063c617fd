"""All examples of some instruction files: their tokens on disk, a few numbers for each in memory.

E: examples.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.data.example_table import ExampleTable, ExampleTableWriter
from alpaca_jax.data.instructions import Located
from alpaca_jax.data.tokenising import TokenisedChunk, Tokenising, chunks_of
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import ProgressBar
from alpaca_jax.support.workers import ordered_map

# A JSON object for each record that gave no example.
REJECTED = "rejected.jsonl"
# The reason counted for records that a weight below 1 leaves out; nothing is wrong with them.
LEFT_OUT = "left_out_by_weight"


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """The examples of some instruction files, in the order of their records.

    Attributes:
      table: their tokens.
      copies: int32 [E], how often each is to be packed.
      held_out: bool [E], whether it belongs to evaluation.
      counts: `records` read, `kept` (those with an example), `dropped` by reason (the rest), `truncated` (of the kept),
        `examples` (the kept with their copies), `target_tokens` (trained tokens of these).
      by_source: `records`, `kept` and `examples` of each input.
    """

    table: ExampleTable
    copies: np.ndarray
    held_out: np.ndarray
    counts: dict[str, Any]
    by_source: list[dict[str, int]]


def collect(work: Tokenising, inputs: Sequence[tuple[Path, float]], folder: Path) -> Collection:
    """Reads and tokenises the inputs, each with its weight.

    Args:
      work: what to do with a chunk of records.
      inputs: files and how often each of their records is wanted.
      folder: where the tokens go, into `tokens/`, and the places of the records that came to nothing, into
        `rejected.jsonl`.

    Raises:
      UserError: an unreadable input, or no usable record.
      OSError: the folder cannot be written.
    """
    chunks: list[TokenisedChunk] = []
    by_source = [{"records": 0, "kept": 0, "examples": 0} for _ in inputs]
    dropped: Counter[str] = Counter()
    with (
        ExampleTableWriter(folder / "tokens") as table,
        open(folder / REJECTED, "w") as rejected,
        ProgressBar("tokenising records", None) as bar,
    ):
        for origin, chunk in ordered_map(work, chunks_of(inputs)):
            table.append(chunk.tokens, chunk.loss_mask, chunk.lengths)
            for number, reason in chunk.rejected:
                rejected.write(json.dumps(_rejection(origin.places[number], reason)) + "\n")
                dropped[reason] += 1
            if chunk.left_out:
                dropped[LEFT_OUT] += chunk.left_out
            counts = by_source[origin.source]
            counts["records"] += len(origin.places)
            counts["kept"] += len(chunk.copies)
            counts["examples"] += int(chunk.copies.sum())
            chunks.append(chunk.without_tokens())
            bar.advance(len(origin.places), note=inputs[origin.source][0].name)
        totals = {name: sum(counts[name] for counts in by_source) for name in ("records", "kept", "examples")}
        if not totals["kept"]:
            raise _nothing_kept(inputs, totals["records"], dropped)
        copies_E, held_out_E, truncated_E, targets_E = (
            np.concatenate([getattr(chunk, field) for chunk in chunks])
            for field in ("copies", "held_out", "truncated", "targets")
        )
        all_counts = {
            **totals,
            "dropped": dict(sorted(dropped.items())),
            "truncated": int(truncated_E.sum()),
            "target_tokens": int((targets_E.astype(np.int64) * copies_E).sum()),
        }
        return Collection(table.table(), copies_E, held_out_E, all_counts, by_source)


def _rejection(place: Located, reason: str) -> dict[str, Any]:
    """A line of `rejected.jsonl`; `record` counts the file's records, `instance` the answers of one task."""
    line = {"file": Path(place.path).name, "line": place.line, "record": place.number, "reason": reason}
    return line if place.instance is None else {**line, "instance": place.instance}


def _nothing_kept(inputs: Sequence[tuple[Path, float]], records: int, dropped: Counter[str]) -> UserError:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
    return UserError(
        ", ".join(str(path) for path, weight in inputs if weight),
        expected="at least one record to train on",
        found=f"{records} records, all dropped ({reasons})",
        remedy="see the reasons: give records with an output, or raise --seq_len",
    )
