"""What an answer is asked to be like, checked; without JAX, so that programs refuse a flag at once."""

import dataclasses

from alpaca_jax.support.errors import UserError

MOST_LOGPROBS = 20
_MOST_STOPS, _LONGEST_STOP = 16, 1000


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the tokens of one answer are chosen; the defaults are those of the Alpaca demo.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_p: tokens are drawn from the smallest set with at least this probability (nucleus sampling, Holtzman et al.
        2020, https://arxiv.org/abs/1904.09751).
      top_k: tokens are drawn from the k likeliest, before `top_p` is looked at; 0 for all.
      repetition_penalty: of tokens that the prompt or the answer has, positive logits are divided by it and negative
        ones multiplied (Keskar et al. 2019, https://arxiv.org/abs/1909.05858); 1 for none.
      max_new_tokens: at most so many tokens are made, the end token counted.
      seed: of the draws; draw i of a prompt depends on (seed, i) and the token's position alone.
      stop: texts before the first of which the answer ends; at most 16.
      logprobs: how many of the likeliest tokens are told of beside the chosen one, each with the logarithm of its
        probability before any of the settings above; None tells of none, the chosen one neither.
      prompt_logprobs: whether the prompt's tokens are told of too; `max_new_tokens` may be 0 then.

    Raises:
      UserError: a value out of range.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 600
    seed: int = 0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False

    def __post_init__(self):
        least = 0 if self.prompt_logprobs else 1
        most = range(MOST_LOGPROBS + 1)
        stops = isinstance(self.stop, tuple) and len(self.stop) <= _MOST_STOPS
        stops = stops and all(isinstance(text, str) and 0 < len(text) <= _LONGEST_STOP for text in self.stop)
        checks = {
            "temperature": (0 <= self.temperature <= 100, "a number from 0 to 100"),
            "top_p": (0 < self.top_p <= 1, "a number above 0, at most 1"),
            "max_new_tokens": (least <= self.max_new_tokens <= 1_000_000, f"a whole number from {least} to 1,000,000"),
            "seed": (0 <= self.seed < 2**32, "a whole number from 0 to 4,294,967,295"),
            "top_k": (0 <= self.top_k < 2**31, "a whole number from 0 (for all) to 2,147,483,647"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "a number from 0.01 to 100"),
            "stop": (stops, f"at most {_MOST_STOPS} texts of 1 to {_LONGEST_STOP:,} characters"),
            "logprobs": (self.logprobs is None or self.logprobs in most, f"a whole number from 0 to {MOST_LOGPROBS}"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise UserError(f"--{name}", expected=expected, found=str(getattr(self, name)), remedy="correct it")
