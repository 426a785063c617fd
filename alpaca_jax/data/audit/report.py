"""What an audit found: counted, with examples, as JSON and as a table."""

import dataclasses
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from alpaca_jax.data.audit.cleaned import log_path
from alpaca_jax.data.audit.inspection import Verdict
from alpaca_jax.data.audit.kinds import KINDS, Found

_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Example:
    """A fault and where it is."""

    file: str
    record: int
    line: int
    why: str
    excerpt: str


@dataclasses.dataclass
class Report:
    """The counts of an audit.

    Attributes:
      files: the files, in order.
      kinds: the kinds looked for.
      records: how many there were.
      clean: how many had no fault.
      counts: how many had a fault, by kind.
      examples: the first of each kind; of `contaminated` all, which are pairs to look at.
      dropped: records of which nothing is kept.
      changed: records kept with changes.
      added: records split off from others.
      written: the cleaned file, where one was wanted.
    """

    files: list[str]
    kinds: list[str]
    records: int = 0
    clean: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    examples: dict[str, list[Example]] = dataclasses.field(default_factory=lambda: {kind: [] for kind in KINDS})
    dropped: int = 0
    changed: int = 0
    added: int = 0
    written: Path | None = None

    def add(self, verdict: Verdict, over: Found | None) -> None:
        """Counts a record, with the fault found besides those of the verdict."""
        found, value = [*verdict.found, *filter(None, [over])], verdict.value
        self.records += 1
        self.clean += not found
        self.dropped += not verdict.kept
        self.changed += bool(verdict.kept and verdict.changes)
        self.added += max(0, len(verdict.kept) - 1)
        for fault in found:
            self.counts[fault.kind] += 1
            if len(self.examples[fault.kind]) < _EXAMPLES or fault.kind == "contaminated":
                example = Example(value.path, value.number, value.line, fault.why, fault.excerpt)
                self.examples[fault.kind].append(example)

    def share(self, kind: str) -> float:
        """The share of the records that have this fault."""
        return self.counts[kind] / max(1, self.records)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program to read."""
        kinds = {
            kind: {
                "count": self.counts[kind],
                "share": round(self.share(kind), 6),
                "fix": KINDS[kind].policy,
                "explanation": KINDS[kind].explanation,
                "examples": [dataclasses.asdict(example) for example in self.examples[kind]],
            }
            for kind in self.kinds
        }
        counts = {"files": self.files, "records": self.records, "clean": self.clean, "kinds": kinds}
        if not self.written:
            return counts
        fixed = {"out": str(self.written), "log": str(log_path(self.written)), "records": self.left}
        return counts | {"fixed": fixed | {"changed": self.changed, "dropped": self.dropped, "added": self.added}}

    @property
    def left(self) -> int:
        """The number of records that are left, those split off included."""
        return self.records - self.dropped + self.added

    def print_to(self, console: Console) -> None:
        """Prints the counts as a table, then the examples."""
        console.print(Text(f"{', '.join(self.files)}: {self.records:,} records, {self.clean:,} without a fault"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("fault", no_wrap=True)
        table.add_column("records", justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
        table.add_column("--fix", no_wrap=True)
        table.add_column("what it is")
        for kind in self.kinds:
            style = "" if self.counts[kind] else "dim"
            cells = (kind, f"{self.counts[kind]:,}", f"{self.share(kind):.2%}", *dataclasses.astuple(KINDS[kind]))
            table.add_row(*map(Text, cells), style=style)
        console.print(table)
        console.print(Group(*(line for kind in self.kinds for line in self._example_lines(kind))))
        if self.written:
            done = f"{self.changed:,} changed, {self.dropped:,} dropped, {self.added:,} added"
            console.print(Text(f"\n{self.written}: {self.left:,} records ({done})"))
            console.print(Text(f"{log_path(self.written)}: a line for each change"))

    def _example_lines(self, kind: str) -> list[Text]:
        examples = self.examples[kind][:_EXAMPLES]
        lines = [Text(kind, "bold")] if examples else []
        for example in examples:
            place = f"record {example.record}, line {example.line}"
            place = f"{example.file}, {place}" if len(self.files) > 1 else place
            lines.append(Text(f"  {place}: ").append(example.why, "yellow"))
            lines.append(Text(f"    {example.excerpt}", "dim"))
        return lines
