"""The tool on a run of the configuration tiny."""

import json
import sys
from pathlib import Path

import pytest

from alpaca_jax.support.program import run_program
from tools import measure_saves


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the program; gives its exit code and what went to the two outputs."""

    def measure(*flags: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["measure_saves", "--config=configs/tiny.py:cpu", *flags])
        with pytest.raises(SystemExit) as end:
            run_program(measure_saves.main)
        return end.value.code, *capsys.readouterr()

    return measure


def test_what_a_save_costs_is_measured_in_a_real_run(measure, packed_rows: Path):
    flags = [f"--config.data.path={packed_rows}", "--config.model.compute_dtype=float32"]
    code, out, err = measure(*flags, "--saves=2", "--between=2", "--json")
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    update, blocked, slowed = (figures[f"{name}_seconds"] for name in ("update", "blocked", "slowed"))
    assert 0 < update < 60
    assert 0 < blocked < 60
    # That of the configuration, where the run itself saved after every second update.
    assert figures["every"] == 100
    assert figures["share"] == pytest.approx((blocked + slowed) / (100 * update))
    assert f"a save blocks {blocked:.2f} s" in err


def test_flags_out_of_range_are_refused(measure):
    code, _, err = measure("--between=1")
    assert code == 2
    assert err.startswith("error: --between: expected at least 2; found 1")
