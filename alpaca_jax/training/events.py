"""TensorBoard events, written in this thread. They are a picture of the run, not its record."""

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from alpaca_jax.support.progress import console

# Each time waits for the disk.
_SECONDS_BETWEEN_FLUSHES = 5.0


class Events:
    """An event file; where it cannot be written, one line says so, and the run goes on without.

    Args:
      folder: where TensorBoard looks; a run that goes on adds a file to those there.
      resume_at: the update that the run goes on from; TensorBoard is told to forget those after it.
    """

    def __init__(self, folder: Path, resume_at: int):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._folder, self._flushed = folder, time.monotonic()
        self._file: RecordWriter | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard knows them by `tfevents` and reads them in the order of their names.
            self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"))
        except OSError as error:
            self._give_up(error)
        self._write(0, file_version="brain.Event:2")
        self._write(resume_at + 1, session_log=SessionLog(status=SessionLog.SessionStatus.Value("START")))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name for an update."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=scalars))

    def write_texts(self, step: int, texts: dict[str, str]) -> None:
        """Writes texts by name for an update."""
        from tensorboardX.summary import text

        for name, content in texts.items():
            # TensorBoard takes texts for Markdown; four spaces show them as they are.
            as_it_is = "".join(f"    {line}\n" for line in content.split("\n"))
            self._write(step, summary=text(name, as_it_is))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            try:
                self._file.close()
                self._file = None
            except OSError as error:
                self._give_up(error)

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._file is None:
            return
        try:
            self._file.write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
            if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
                self._file.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None
        reason = (error.strerror or str(error)).lower()
        console.print(
            f"[yellow]{self._folder} cannot be written ({reason})[/]: no more events for TensorBoard; "
            "the run goes on, and metrics.jsonl has every number"
        )
