"""JSON-lines files that grow with a run and agree with its checkpoints after a crash."""

import json
import math
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
        """Appends a line; a number that is not finite becomes null. A crash of the program leaves it standing."""
        # JSON knows no NaN and no infinity.
        finite = {name: None if _not_finite(value) else value for name, value in values.items()}
        self._file.write(json.dumps({"step": step} | finite, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def read(self) -> list[dict[str, Any]]:
        """The lines written so far; those from one that is torn or damaged on are passed over."""
        if not self.path.exists():
            return []
        lines = []
        # Cut at line feeds alone: texts may hold other characters that Python takes for the end of a line.
        for line in self.path.read_bytes().split(b"\n"):
            try:
                value = json.loads(line)
            except ValueError:
                break
            if not isinstance(value, dict) or not isinstance(value.get("step"), int):
                break
            lines.append(value)
        return lines

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
