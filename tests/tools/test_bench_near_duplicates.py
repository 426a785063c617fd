"""The benchmark runs, and both ways decide the same."""

import json

from alpaca_jax.data.embedded import SEED_TASKS
from tests.tools.test_benchmarks import run


def test_both_ways_decide_the_same():
    said = run("bench_near_duplicates.py", f"--input={SEED_TASKS}", "--records=400", "--samples=4", "--json")
    report = json.loads(said)
    assert report["decided_differently"] == 0
    assert report["samples"] == 4
    assert 175 <= report["kept"] <= 400
    assert report["times_as_fast"] > 20
