"""How rotary frequencies are stretched, so that a model reaches further than it was first trained to.

Each way is a small dataclass of its numbers, which have the names of Hugging Face's `rope_parameters`, with the formula
that turns unscaled powers into frequencies. Everything follows from the configuration alone and is computed with numpy
in float32, operation by operation in transformers' order: at position 4,096 one bit of a frequency moves a logit.

q = Q/2 pairs of channels; powers_q is θ^(2i/Q).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from alpaca_jax.model.checks import check_fields
from alpaca_jax.support.errors import UserError, shorten


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023, https://arxiv.org/abs/2306.15595)."""

    kind: ClassVar[str] = "linear"
    attention_factor: ClassVar[float] = 1.0

    factor: float

    def __post_init__(self):
        check_fields(self, _SUBJECT)

    def frequencies(self, powers_q: np.ndarray, theta: float) -> np.ndarray:
        """Radians a position, float32 [Q/2]."""
        return 1 / powers_q / np.float32(self.factor)


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """LLaMA 3.1's: slow turns divided by `factor`, fast ones kept, those between blended.

    A turn is slow when it takes more than original / low_freq_factor positions, fast when it takes fewer than
    original / high_freq_factor (Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783, and Meta's published code).
    """

    kind: ClassVar[str] = "llama3"
    attention_factor: ClassVar[float] = 1.0

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        check_fields(self, _SUBJECT)
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError(
                f"{_SUBJECT}high_freq_factor",
                expected=f"more than low_freq_factor, {self.low_freq_factor}",
                found=str(self.high_freq_factor),
                remedy="check where the description comes from",
            )

    def frequencies(self, powers_q: np.ndarray, theta: float) -> np.ndarray:
        """Radians a position, float32 [Q/2]."""
        factor, low, original = self.factor, self.low_freq_factor, self.original_max_position_embeddings
        unscaled_q = 1 / powers_q
        wavelengths_q = 1 / unscaled_q * np.float32(2 * math.pi)
        slow_q = wavelengths_q > np.float32(original / low)
        fast_q = wavelengths_q < np.float32(original / self.high_freq_factor)
        width = np.float32(self.high_freq_factor - low)
        share_q = (1 / wavelengths_q * np.float32(original) - np.float32(low)) / width
        blended_q = (1 - share_q) * unscaled_q / np.float32(factor) + share_q * unscaled_q
        return np.where(slow_q, unscaled_q / np.float32(factor), np.where(fast_q, unscaled_q, blended_q))


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071): by pairs of channels between kept and divided.

    Attributes:
      beta_fast: pairs that turn more often than this within the original length are kept.
      beta_slow: those that turn less often than this are divided by `factor`; between the two they are blended.
      attention_factor: what sines and cosines are multiplied by; `yarn_attention_factor` gives the paper's.
      truncate: whether the bounds are rounded to whole pairs, as the paper's authors do.
    """

    kind: ClassVar[str] = "yarn"

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def __post_init__(self):
        check_fields(self, _SUBJECT)

    def frequencies(self, powers_q: np.ndarray, theta: float) -> np.ndarray:
        """Radians a position, float32 [Q/2]."""
        head_dim = 2 * len(powers_q)

        def bound(turns: float) -> float:
            return (
                head_dim
                * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi))
                / (2 * math.log(theta))
            )

        low, high = bound(self.beta_fast), bound(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low if high != low else 0.001
        pairs_q = np.arange(len(powers_q), dtype=np.float32)
        kept_q = 1 - np.clip((pairs_q - np.float32(low)) / np.float32(width), 0, 1)
        return 1 / (np.float32(self.factor) * powers_q) * (1 - kept_q) + 1 / powers_q * kept_q


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling
SCALINGS: Mapping[str, type[RopeScaling]] = {
    scaling.kind: scaling for scaling in (LinearScaling, Llama3Scaling, YarnScaling)
}
_SUBJECT = "model description, rope_scaling."


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1, which sharpens attention over a longer text (the paper's equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def scaling_to_json(scaling: RopeScaling) -> dict[str, Any]:
    """The scaling as a JSON object; `scaling_from_json` reads it back."""
    return {"kind": scaling.kind, **dataclasses.asdict(scaling)}


def scaling_from_json(value: Any, source: str) -> RopeScaling:
    """The scaling in a JSON object.

    Raises:
      UserError: an unknown kind, a key is missing, unknown or of the wrong type; `source` names the file in it.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise UserError(
            f"{source}, rope_scaling",
            expected=f"an object whose kind is {', '.join(SCALINGS)}",
            found=shorten(value),
            remedy="convert the checkpoint again with this version",
        )
    numbers = {key: number for key, number in value.items() if key != "kind"}
    known = {field.name for field in dataclasses.fields(SCALINGS[kind])}
    if set(numbers) != known:
        raise UserError(
            f"{source}, rope_scaling",
            expected=f"{', '.join(sorted(known))} for {kind!r}",
            found=f"missing {sorted(known - set(numbers))}, unknown {sorted(set(numbers) - known)}",
            remedy="convert the checkpoint again with this version",
        )
    return SCALINGS[kind](**numbers)
