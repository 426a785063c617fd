"""What a configuration needs on its target, how long it will take and what it will cost."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.presets import preset
from alpaca_jax.model.rematerialisation import POLICIES
from alpaca_jax.parallel.chips import CHIPS, TARGETS, Target
from alpaca_jax.planning.compiler import CompiledStep, compile_step
from alpaca_jax.planning.devices import describe
from alpaca_jax.planning.estimate import Estimate, by_kind, estimate
from alpaca_jax.support.errors import UserError
from alpaca_jax.training.config import validate
from alpaca_jax.training.throughput import model_flops


@dataclasses.dataclass(frozen=True)
class Data:
    """The records of a run; the defaults are Alpaca's, measured with LLaMA's tokenizer.

    Attributes:
      records: how many.
      tokens: of one record, mean.
      attended: tokens that a token sees, itself included, mean: half of Σ n² / Σ n over records of n tokens.
      fill: share of the places of packed rows that hold a token.
    """

    records: int = 52_002
    tokens: float = 127.5
    attended: float = 95.0
    fill: float = 0.987


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A plan; see `as_json` for its parts."""

    config: ConfigDict
    target: Target
    model: ModelConfig
    compiled: CompiledStep
    estimate: Estimate
    data: Data
    price: float

    @property
    def tokens_per_step(self) -> float:
        """Tokens of an update, padding left out."""
        return self.config.train.batch_rows * self.config.data.seq_len * self.data.fill

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        rows = self.data.records * self.data.tokens / (self.config.data.seq_len * self.data.fill)
        return math.ceil(self.config.train.epochs * rows / self.config.train.batch_rows)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation that the estimate means."""
        useful = model_flops(self.model, self.tokens_per_step, self.tokens_per_step * self.data.attended)
        return useful / (self.step_seconds * CHIPS[self.target.chip].flops * self.target.devices)

    @property
    def step_seconds(self) -> float:
        """Seconds of an update, all its microbatches together."""
        return self.estimate.step

    @property
    def hours(self) -> float:
        """Of the whole run, without start and evaluations."""
        return self.updates * self.step_seconds / 3600

    @property
    def cost_usd(self) -> float:
        """Of the whole run."""
        return self.hours * self.price * self.target.devices

    def as_json(self) -> dict[str, Any]:
        """All figures; memory in GiB of one device."""
        gib = 2**30
        compiled, config = self.compiled, self.config
        return {
            "fits": compiled.fits,
            "state_gib": round(compiled.state / gib, 2),
            "peak_gib": round(compiled.peak / gib, 2),
            "limit_gib": round(compiled.limit / gib, 2),
            "collectives": by_kind(compiled.collectives),
            "kernels": sorted(compiled.kernels),
            "compile_seconds": round(compiled.seconds, 1),
            "step_seconds": round(self.step_seconds, 4),
            "step_parts": {
                "products": round(self.estimate.products, 4),
                "attention": round(self.estimate.attention, 4),
                "memory": round(self.estimate.memory, 4),
                "communication": round(self.estimate.communication, 4),
                "host": round(self.estimate.host, 4),
            },
            "mfu": round(self.mfu, 3),
            "tokens_per_second": round(self.tokens_per_step / self.step_seconds),
            "updates": self.updates,
            "hours": round(self.hours, 3),
            "cost_usd": round(self.cost_usd, 2),
            "price_usd_per_device_hour": self.price,
            "assumptions": list(self.estimate.assumptions),
            "microbatches": config.train.microbatches,
            "remat": config.model.remat,
        }


def forecast(config: ConfigDict, target_name: str, data: Data, price: float | None = None) -> Forecast:
    """Compiles the configuration's train step for its target, and works out the rest.

    Raises:
      UserError: the target names no chip, or the configuration cannot be run on it.
    """
    target = _target(target_name)
    return _forecast(config, target, describe(target), data, price)


def search(config: ConfigDict, target_name: str, data: Data, price: float | None = None) -> Iterator[Forecast]:
    """A forecast for each number of microbatches and each rematerialisation.

    Of one rematerialisation, no more microbatches are tried than the first that fit: more would only be slower.

    Raises:
      UserError: as `forecast`.
    """
    target = _target(target_name)
    devices = describe(target)
    for remat in POLICIES:
        for microbatches in _microbatches(config, target):
            tried = copy.deepcopy(config)
            tried.model.remat, tried.train.microbatches = remat, microbatches
            result = _forecast(tried, target, devices, data, price)
            yield result
            if result.compiled.fits:
                break


def fewest_microbatches(planned: Forecast) -> int | None:
    """The fewest microbatches, and so the largest, with which the step fits; None if it never does."""
    devices = describe(planned.target)
    for microbatches in _microbatches(planned.config, planned.target):
        tried, compiled = copy.deepcopy(planned.config), planned.compiled
        if microbatches != tried.train.microbatches:
            tried.train.microbatches = microbatches
            compiled = compile_step(tried, planned.target, planned.model, devices)
        if compiled.fits:
            return microbatches
    return None


def _forecast(config: ConfigDict, target: Target, devices: Any, data: Data, price: float | None) -> Forecast:
    chip, model = CHIPS[target.chip], preset(config.model.preset)
    compiled = compile_step(config, target, model, devices)
    parts = estimate(chip, target, compiled)
    return Forecast(config, target, model, compiled, parts, data, chip.price if price is None else price)


def _microbatches(config: ConfigDict, target: Target) -> list[int]:
    """The numbers into which the batch divides, from 1."""
    over_rows = target.devices // (config.mesh.context * config.mesh.tensor)
    rows = config.train.batch_rows // over_rows
    return [number for number in range(1, rows + 1) if rows % number == 0]


def _target(name: str) -> Target:
    target = TARGETS[name]
    if not target.chip:
        known = ", ".join(key for key, value in TARGETS.items() if value.chip)
        expected = f"a machine to plan for, one of {known}"
        raise UserError("--config, target", expected=expected, found=name, remedy="name one of these")
    return target


def check(config: ConfigDict) -> None:
    """Refuses a configuration that could not be planned.

    Raises:
      UserError: names the key.
    """
    validate(config, needs_data=False)
    if not config.data.seq_len:
        raise UserError(
            "config.data.seq_len", expected="the length of the rows", found="0", remedy="set --config.data.seq_len"
        )
