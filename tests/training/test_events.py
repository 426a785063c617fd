"""TensorBoard's events: what is written, and that a place where nothing can be written costs one line."""

from pathlib import Path

import pytest

from alpaca_jax.training import events
from alpaca_jax.training.events import Events


def test_numbers_and_texts_come_back(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = Events(tmp_path, resume_at=0)
    for step in (1, 2, 3):
        written.write(step, {"loss": 1 / step})
    written.write_texts(3, {"samples/Who?": "# One\nTwo"})
    written.close()
    again = Events(tmp_path, resume_at=2)
    again.write(3, {"loss": 7.0})
    again.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 7.0)]
    found = EventAccumulator(str(min(tmp_path.iterdir())))
    found.Reload()
    (text,) = found.Tensors("samples/Who?/text_summary")
    assert text.tensor_proto.string_val == [b"    # One\n    Two\n"]


@pytest.mark.parametrize("kind", ["no folder", "a full disk"])
def test_where_nothing_can_be_written_one_line_says_so(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "tensorboard"
    if kind == "no folder":
        folder.write_text("")
    else:
        monkeypatch.setattr(events.time, "time", lambda: 1.5)
        monkeypatch.setattr(events.socket, "gethostname", lambda: "here")
        monkeypatch.setattr(events, "_SECONDS_BETWEEN_FLUSHES", -1.0)
        folder.mkdir()
        (folder / "events.out.tfevents.1.500000.here").symlink_to("/dev/full")
    written = Events(folder, resume_at=0)
    for step in range(3):
        written.write(step, {"loss": 1.0})
        written.write_texts(step, {"a": "b"})
    written.close()
    (line,) = capsys.readouterr().err.splitlines()
    reason = {"no folder": "file exists", "a full disk": "no space left on device"}[kind]
    assert line.startswith(f"{folder} cannot be written ({reason}): no more events for TensorBoard; the run goes on")
