"""The cleaned file and the log of its changes, which appear together when everything is written, or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from alpaca_jax.data.audit.inspection import Verdict
from alpaca_jax.data.audit.kinds import KINDS
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import check_file_place, explain_os_errors


def log_path(out: Path) -> Path:
    """Where the log of a cleaned file lies."""
    return out.with_name(out.name + ".log.jsonl")


class CleanedFile:
    """Takes verdicts and writes what is left of their records, in the form in which they were read."""

    def __init__(self, records: IO[str], log: IO[str], listed: bool):
        """Begins the file; `listed`: a JSON list, one record a line, rather than JSON lines."""
        self._records, self._log, self._listed = records, log, listed
        self.written = 0

    def write(self, verdict: Verdict) -> None:
        """Writes the records that take a record's place, and a line of the log for each change."""
        for record in verdict.kept:
            before = ("[\n" if not self.written else ",\n") if self._listed else ""
            self._records.write(f"{before}{_json(record)}{'' if self._listed else chr(10)}")
            self.written += 1
        value = verdict.value
        for change in verdict.changes:
            dropped = {"dropped": True} if not change.after else {"after": _one_or_all(change.after)}
            line = {"file": value.path, "record": value.number, "line": value.line, "kind": change.found.kind}
            self._log.write(_json({**line, "why": change.found.why, "before": change.before, **dropped}) + "\n")

    def end(self) -> None:
        """Ends the list."""
        if self._listed:
            self._records.write("\n]\n")


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair cannot be written but as its number.
    return text if text.encode(errors="replace").decode() == text else json.dumps(value)


def _one_or_all(after: list[dict[str, Any]]) -> Any:
    return after[0] if len(after) == 1 else after


def check_place(out: Path, inputs: tuple[Path, ...]) -> None:
    """Refuses a place for the cleaned file that holds something, before any work.

    Raises:
      UserError: `out` or its log exists, is one of the inputs, or has the name of a compressed file; the first input,
        which decides the form of the file, is a pipe.
    """
    if out.suffix in (".gz", ".zst"):
        found = f"a name that ends in {out.suffix}"
        raise UserError(
            "--fix", expected="a name for a file without compression", found=found, remedy=f"leave out {out.suffix}"
        )
    check_file_place(out)
    with explain_os_errors(out):
        if inputs[0].is_fifo():
            remedy = "write it to a file"
            raise UserError(str(inputs[0]), expected="a file, which is read twice", found="a pipe", remedy=remedy)
        if any(path.exists() and out.exists() and path.samefile(out) for path in inputs):
            raise UserError(
                str(out),
                expected="another file than those read",
                found="one of them",
                remedy="choose another --fix",
            )
        for path in (out, log_path(out)):
            if path.exists() or path.is_symlink():
                remedy = "choose another --fix, or delete it"
                raise UserError(str(path), expected="a file that does not exist yet", found="one", remedy=remedy)


@contextlib.contextmanager
def cleaned_file(out: Path, listed: bool) -> Iterator[CleanedFile]:
    """A cleaned file to write to; it and its log take their names when the block ends without an error.

    Raises:
      UserError: the folder cannot be written or is full, or no record is left.
    """
    places = (log_path(out), out)  # the log first: the cleaned file never stands without it
    hidden = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in places]
    with explain_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(hidden[1], "x", encoding="utf-8") as records, open(hidden[0], "x", encoding="utf-8") as log:
                file = CleanedFile(records, log, listed)
                yield file
                if not file.written:
                    kinds = ", ".join(kind for kind in KINDS if "dropped" in KINDS[kind].policy)
                    raise UserError(
                        str(out),
                        expected="at least one record to keep",
                        found="none",
                        remedy=f"see, without --fix, what is wrong with each ({kinds})",
                    )
                file.end()
                for stream in (records, log):
                    stream.flush()
                    os.fsync(stream.fileno())
            for temporary, path in zip(hidden, places, strict=True):
                temporary.replace(path)
        finally:
            for temporary in hidden:
                temporary.unlink(missing_ok=True)
