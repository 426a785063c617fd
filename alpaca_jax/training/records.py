"""JSON-lines files that grow with a run and agree with its checkpoints after a crash."""

import json
from pathlib import Path
from typing import Any, TextIO

from alpaca_jax.support.files import write_text_atomic


class StepLog:
    """A JSON-lines file, one object a line, each with the number of its update as `step`.

    Args:
      path: the file.
      resume_at: the update that the run goes on from; lines of later updates, which will be made again, are dropped,
        and so is a last line that a crash tore.
    """

    def __init__(self, path: Path, resume_at: int):
        self.path = path
        kept = [line for line in self.read() if line["step"] <= resume_at] if resume_at else []
        write_text_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115 (it lives as long as the run)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends a line and hands it to the operating system, so that a crash of the program keeps it."""
        self._file.write(json.dumps({"step": step} | values, ensure_ascii=False) + "\n")
        self._file.flush()

    def read(self) -> list[dict[str, Any]]:
        """The lines written so far; a torn last one is passed over."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
