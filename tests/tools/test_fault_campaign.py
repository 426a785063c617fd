"""The short form of the campaign: two kills, and the faults that no other test injects; nothing differs after them."""

import re
import subprocess
import sys


def test_faults_cost_no_more_than_the_updates_since_the_last_save():
    faults = {
        "kill": r"kill -9 at random moments \| 2 \| 2 \| \d+",
        "flipped": r"a bit of the newest save flipped \| 1 \| 1 \| 4",
        "full": r"a full disk \| (1 \| 1 \| \d+|0 \(nothing may be mounted here\))",
        "read-only": r"a read-only work directory \| (1 \| 1 \| 0|0 \(nothing may be mounted here\))",
        "sink": r"a dead metrics sink \| 1 \| 1 \| 0",
        "clock": r"a clock that jumps \| 1 \| 1 \| 0",
    }
    command = [sys.executable, "-m", "tools.fault_campaign", "--kills=2", f"--faults={','.join(faults)}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for row, says in zip(ended.stdout.splitlines()[2:], faults.values(), strict=True):
        assert re.fullmatch(rf"\| {says} \| (yes )?\|( \| \|)?", row), row
