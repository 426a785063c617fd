"""What is told of the numbers of an update."""

import math

import numpy as np

from alpaca_jax.training.number_watch import NumberWatch


def look(watch: NumberWatch, loss: float, norm: float = 1.0) -> dict[str, bool]:
    return watch.look({"loss": loss, "grad_norm": norm})


def test_a_spike_is_told_and_noise_is_not():
    random = np.random.default_rng(0)
    losses = [2.0 - step / 1000 + random.normal(0, 0.05) for step in range(500)]
    losses[300] += 1.0
    watch = NumberWatch()
    assert [step for step, loss in enumerate(losses) if look(watch, loss)] == [300]


def test_a_watch_that_goes_on_tells_the_same():
    losses = [1.0 + 0.01 * (step % 7) for step in range(100)] + [2.0]
    whole, later = NumberWatch(), NumberWatch(losses[:50])
    told = [look(whole, loss) for loss in losses]
    assert told[-1] == {"spike": True}
    assert told[50:] == [look(later, loss) for loss in losses[50:]]


def test_updates_that_are_not_finite_are_counted_until_one_is():
    watch = NumberWatch([1.0] * 20)
    for bad, (loss, norm) in enumerate([(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)], start=1):
        assert look(watch, loss, norm) == {"skipped": True}
        assert watch.bad_in_a_row == bad
    assert look(watch, 1.0) == {}
    assert watch.bad_in_a_row == 0
