"""Logs that agree with the checkpoint a run goes on from, whatever a crash did to them."""

from pathlib import Path

from alpaca_jax.training.records import StepLog


def test_a_log_goes_on_where_the_checkpoint_stands(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = StepLog(path, resume_at=0)
    for step in (1, 2, 3):
        log.write(step, {"text": "a\u2028b\x85c\nd", "loss": step / 3})
    log.close()
    with open(path, "ab") as file:
        file.write('{"step": 4, "text": "ä'.encode()[:-1])  # torn within a character

    log = StepLog(path, resume_at=9)
    assert [line["step"] for line in log.read()] == [1, 2, 3]
    log.close()
    log = StepLog(path, resume_at=2)
    log.write(3, {"text": "new", "loss": float("nan")})
    assert log.read() == [
        {"step": 1, "text": "a\u2028b\x85c\nd", "loss": 1 / 3},
        {"step": 2, "text": "a\u2028b\x85c\nd", "loss": 2 / 3},
        {"step": 3, "text": "new", "loss": None},
    ]
    log.close()
    log = StepLog(path, resume_at=0)
    assert log.read() == []
    log.close()
