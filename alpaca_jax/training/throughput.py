"""Model FLOPs utilisation: the arithmetic a model needs, over what the chips could do in the time."""

import jax

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.parallel.chips import chip_of


def model_flops(config: ModelConfig, tokens: float, attended: float) -> float:
    """FLOPs of an update, forward and backward, without recomputation.

    6 a parameter and token (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361), and for attention, which is causal,
    12 a layer, a query channel and a pair of tokens of which one sees the other: two products of 2 FLOPs forward, and
    twice that backward.

    Args:
      config: the model's sizes.
      tokens: tokens of the update, padding not counted.
      attended: pairs of a token and one that it sees, itself included.
    """
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * attended
    return 6 * config.num_parameters * tokens + attention


def peak_flops() -> float | None:
    """What all devices of this run can do together, in FLOP/s; None where the chip is not in the table, as a CPU."""
    chip = chip_of(jax.devices()[0].device_kind)
    return None if chip is None else chip.flops * jax.device_count()


def device_memory_gib() -> float | None:
    """The most memory that any device of this process has held so far; None where the devices do not say, as a CPU."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) / 2**30 if known else None
