"""What a server allows."""

import dataclasses

from alpaca_jax.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """The bounds that keep a server alive.

    Attributes:
      queue: answers that may wait for a slot of the engine; a request that finds no room is told to come again (429).
      max_tokens: the most new tokens that a request may ask for.
      timeout: seconds that a request may take, its wait included.
      body_bytes: the longest body of a request.
      body_seconds: for a body to arrive.
      header_seconds: for a connection to send the head of a request.
      buffered_bytes: of all bodies that are in memory at once.
      choices: answers that one request may ask for: its prompts times `n`.

    Raises:
      UserError: a value out of range.
    """

    queue: int = 128
    max_tokens: int = 4096
    timeout: float = 300.0
    body_bytes: int = 2**20
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    buffered_bytes: int = 2**28
    choices: int = 128

    def __post_init__(self) -> None:
        """Checks what flags set."""
        checks = {
            "queue": (0 <= self.queue <= 100_000, "a whole number from 0 to 100,000"),
            "max_tokens": (1 <= self.max_tokens <= 1_000_000, "a whole number from 1 to 1,000,000"),
            "timeout": (0 < self.timeout <= 86_400, "seconds, above 0 and at most 86,400"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise UserError(f"--{name}", expected=expected, found=str(getattr(self, name)), remedy="correct it")
