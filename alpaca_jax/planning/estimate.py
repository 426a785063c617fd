"""How long a compiled step takes, from what it does and what the chip can do: an estimate, each part said apart."""

import dataclasses
from typing import Any

from alpaca_jax.parallel.chips import Chip, Target
from alpaca_jax.planning.compiler import CompiledStep
from alpaca_jax.planning.hlo import Collective
from alpaca_jax.planning.links import seconds

# The share of the datasheet that large kernels reach. Matrix products: an H200 was seen at 790 of 989 TFLOP/s in a
# large one, and a step's are not all large; llm-foundry's whole step of a 7B on 8 × A100 reached 64%
# (https://github.com/mosaicml/llm-foundry, scripts/train/benchmarking), its other kernels and collectives in that time.
_PRODUCTS = {"gpu": 0.75, "tpu": 0.85}
# Fused attention: forward and backward together 50–73% on an A100, less with short rows and with a mask
# (Dao 2023, https://arxiv.org/abs/2307.08691).
_ATTENTION = 0.5
# Memory and links: what copies of many megabytes reach.
_MEMORY, _LINKS = 0.85, 0.75
# Transfers run beside the arithmetic of another layer, but for the first and the last of a loop.
_EXPOSED = 0.1


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step on one device.

    Attributes:
      products: of its matrix products.
      attention: of its library kernels for attention.
      memory: of its other kernels, which wait for the memory.
      communication: of its collectives, were they alone.
      host: of what goes to the host's memory and back, were it alone.
      step: all together.
      assumptions: what was assumed, in a sentence each.
    """

    products: float
    attention: float
    memory: float
    communication: float
    host: float
    step: float
    assumptions: tuple[str, ...]


def estimate(chip: Chip, target: Target, step: CompiledStep) -> Estimate:
    """The estimate for a step.

    Args:
      chip: its figures.
      target: how many, on how many machines.
      step: what a device does in it.
    """
    products = step.flops / (chip.flops * _PRODUCTS[chip.platform])
    attention = step.attention_flops / (chip.flops * _ATTENTION)
    memory = step.moved / (chip.bandwidth * _MEMORY)
    communication = sum(seconds(one, chip) for one in step.collectives) / _LINKS
    host = step.carried / (chip.host * _LINKS)
    at_once = (products + attention + memory, communication, host)
    together = max(at_once) + _EXPOSED * (sum(at_once) - max(at_once))
    apart = "slices" if target.slices > 1 else "machines" if chip.platform == "gpu" and target.hosts > 1 else ""
    assumptions = (
        f"matrix products at {_PRODUCTS[chip.platform]:.0%} of {chip.flops / 1e12:.0f} TFLOP/s",
        f"fused attention at {_ATTENTION:.0%} of it",
        f"other kernels at {_MEMORY:.0%} of {chip.bandwidth / 1e12:.2f} TB/s",
        f"collectives at {_LINKS:.0%} of {chip.link / 1e9:.0f} GB/s"
        + (" along all axes of the torus" if chip.platform == "tpu" else "")
        + (f", {chip.network / 1e9:.3g} a chip between {apart}" if apart else ""),
        *([f"the host's memory at {_LINKS:.0%} of {chip.host / 1e9:.0f} GB/s"] if step.carried else []),
        f"transfers beside arithmetic but for {_EXPOSED:.0%}",
    )
    return Estimate(products, attention, memory, communication, host, together, assumptions)


def by_kind(collectives: list[Collective]) -> dict[str, dict[str, Any]]:
    """Number in a step, and GiB that a device sends, of each kind of collective."""
    table: dict[str, dict[str, Any]] = {}
    for one in collectives:
        row = table.setdefault(one.kind, {"times": 0, "gib": 0.0})
        row["times"] += round(one.times)
        row["gib"] += one.sent() / 2**30
    return {kind: {"times": row["times"], "gib": round(row["gib"], 3)} for kind, row in sorted(table.items())}
