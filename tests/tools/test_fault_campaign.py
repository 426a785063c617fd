"""The short form of the campaign: two kills and a flipped bit, after which nothing is different."""

import re
import subprocess
import sys


def test_faults_cost_no_more_than_the_updates_since_the_last_save():
    command = [sys.executable, "-m", "tools.fault_campaign", "--kills=2", "--faults=kill,flipped"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kill, flipped = ended.stdout.splitlines()[2:]
    assert re.fullmatch(r"\| kill -9 at random moments \| 2 \| 2 \| \d+ \| yes \|", kill)
    assert re.fullmatch(r"\| a bit of the newest save flipped \| 1 \| 1 \| 4 \| yes \|", flipped)
