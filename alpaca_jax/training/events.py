"""TensorBoard events, written at once and in this thread, so that a full disk is an error here and nowhere else."""

import time
from pathlib import Path


class Events:
    """An event file.

    Args:
      folder: where TensorBoard looks; a run that goes on adds a file to those there.
      resume_at: the update that the run goes on from; TensorBoard is told to forget those after it.
    """

    def __init__(self, folder: Path, resume_at: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.SessionStatus.Value("START"))
        self._writer.write_event(Event(wall_time=time.time(), step=resume_at + 1, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name for an update."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
