"""The devices always have the next update before the one ahead is read, and every number comes in its order."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.training.clock import Clock, Timing
from alpaca_jax.training.pipeline import Pipeline

ROWS = {"tokens": np.zeros((8, 4), np.int32)}


class Slow(np.ndarray):
    """A number that a device has at the moment that is its value."""

    def block_until_ready(self) -> None:
        time.sleep(max(0.0, float(self) - time.perf_counter()))


def test_an_update_is_read_after_the_next_is_on_its_way():
    happened: list[str] = []

    def step(state: int, batch: dict[str, jax.Array]) -> tuple[int, dict[str, jax.Array]]:
        assert batch["tokens"].shape == (8, 4)
        happened.append(f"start {state + 1}")
        return state + 1, {"loss": jnp.float32(state + 1)}

    def measured(number: int, metrics: dict[str, float], timing: Timing) -> None:
        assert metrics == {"loss": number}
        assert min(timing.seconds, timing.input_wait_seconds) > 0
        happened.append(f"read {number}")

    clock, batches = Clock(), iter([ROWS] * 4)
    pipeline = Pipeline(step, 0, batches, make_mesh({"fsdp": 8}), clock, measured)
    for number in (1, 2, 3):
        pipeline.update(number)
    assert happened == ["start 1", "start 2", "read 1", "start 3", "read 2"]
    pipeline.drain()
    pipeline.drain()
    assert happened[5:] == ["read 3"]
    pipeline.update(4)
    assert (pipeline.state, happened[6:]) == (4, ["start 4"])


def test_ends_that_are_noted_late_make_no_time_negative():
    began, ends = time.perf_counter(), iter([0.3, 0.1, 0.5])
    timings: list[float] = []

    def step(state: int, batch: dict[str, jax.Array]) -> tuple[int, dict]:
        return state, {"loss": np.array(began + next(ends)).view(Slow)}

    def measured(number: int, metrics: dict[str, float], timing: Timing) -> None:
        timings.append(timing.seconds)

    pipeline = Pipeline(step, 0, iter([ROWS] * 3), make_mesh({"fsdp": 8}), Clock(), measured)
    for number in (1, 2, 3):
        pipeline.update(number)
    pipeline.drain()
    assert min(timings) > 0
    assert sum(timings) < time.perf_counter() - began + 1e-3


# Long beside the tenth of a second by which a busy machine may wake a thread too late.
SECONDS = 1.0


def run_with(input_seconds: float) -> tuple[list[Timing], dict[str, float]]:
    """Three updates of a second each, whose batches take that long from the second on."""

    def batches():
        yield ROWS
        while True:
            time.sleep(input_seconds)
            yield ROWS

    def step(free_at: float, batch: dict[str, jax.Array]) -> tuple[float, dict]:
        done_at = max(free_at, time.perf_counter()) + SECONDS
        return done_at, {"loss": np.array(done_at).view(Slow)}

    timings: list[Timing] = []
    clock, mesh = Clock(), make_mesh({"fsdp": 8})
    pipeline = Pipeline(step, 0.0, batches(), mesh, clock, lambda number, metrics, timing: timings.append(timing))
    with clock.part("updates"):
        for number in (1, 2, 3):
            pipeline.update(number)
        pipeline.drain()
    return timings, clock.seconds()


def test_input_that_comes_while_the_devices_are_busy_costs_nothing():
    timings, parts = run_with(SECONDS / 2)
    assert [timing.seconds for timing in timings] == pytest.approx([SECONDS] * 3, abs=0.4)
    assert [timing.input_wait_seconds for timing in timings] == pytest.approx([0, SECONDS / 2, SECONDS / 2], abs=0.4)
    assert parts["updates"] == pytest.approx(3 * SECONDS, abs=0.75)
    assert parts["input"] < 0.4


def test_the_devices_wait_for_input_counts_against_the_run_and_for_its_own_update():
    timings, parts = run_with(2 * SECONDS)
    assert [timing.seconds for timing in timings] == pytest.approx([SECONDS, 2 * SECONDS, 2 * SECONDS], abs=0.4)
    assert parts["updates"] == pytest.approx(3 * SECONDS, abs=0.75)
    assert parts["input"] == pytest.approx(2 * SECONDS, abs=0.75)
