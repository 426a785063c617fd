"""What requests cost: prices by model, the sum so far, and a budget that is never exceeded."""

import asyncio
import dataclasses
import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

_TABLE = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Price:
    """USD for a million tokens of prompts and of answers."""

    prompt: Decimal
    answer: Decimal

    def of(self, prompt_tokens: int, answer_tokens: int) -> Decimal:
        """What so many tokens cost, exactly."""
        return (self.prompt * prompt_tokens + self.answer * answer_tokens) / _MILLION


def read_prices(path: Path | None) -> dict[str, Price]:
    """The prices in a TOML file such as the package's `prices.toml`, which is the default, by model.

    Raises:
      UserError: no such file, not TOML, or an entry that is not two prices.
    """
    path = path or _TABLE
    with explain_os_errors(path):
        content = path.read_bytes()
    try:
        models = tomllib.loads(content.decode())["models"].items()
        prices = {name: Price(Decimal(entry["in"]), Decimal(entry["out"])) for name, entry in models}
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
        found, remedy = shorten(f"{type(error).__name__}: {error}"), "see alpaca_jax/remote/prices.toml"
        expected = 'a table `models` with lines "NAME" = { in = "USD", out = "USD" }'
        raise UserError(str(path), expected=expected, found=found, remedy=remedy) from error
    for name, price in prices.items():
        if not all(number.is_finite() and number >= 0 for number in (price.prompt, price.answer)):
            remedy = "correct that line"
            raise UserError(f"{path}, {name}", expected="prices of at least 0", found=str(price), remedy=remedy)
    return prices


class Account:
    """What was spent, and what requests in flight may yet cost.

    A request reserves the most that it can cost before it is sent, so that the budget holds whatever comes back.
    """

    def __init__(self, prices: dict[str, Price], budget: Decimal | None):
        """Nothing spent; `budget` in USD.

        Args:
          prices: by model.
          budget: in USD, or None for no limit.
        """
        self._prices, self._budget = prices, budget
        self._reserved = Decimal(0)
        self._released = asyncio.Condition()
        self.spent = Decimal(0)
        self.prompt_tokens = self.answer_tokens = self.unmeasured = 0

    def knows(self, model: str) -> bool:
        """Whether the model has a price."""
        return model in self._prices

    def cost(self, model: str, prompt_tokens: int, answer_tokens: int) -> Decimal:
        """What so many tokens cost; 0 for a model without a price."""
        return self._prices[model].of(prompt_tokens, answer_tokens) if self.knows(model) else Decimal(0)

    def book(self, model: str, prompt_tokens: int, answer_tokens: int, measured: bool) -> None:
        """Counts an answer; `measured` is False where the server did not say how many tokens it had."""
        self.prompt_tokens += prompt_tokens
        self.answer_tokens += answer_tokens
        self.unmeasured += not measured
        self.spent += self.cost(model, prompt_tokens, answer_tokens)

    async def reserve(self, most: Decimal) -> None:
        """Sets aside the most that a request can cost, waiting for requests in flight to come in below theirs.

        Raises:
          UserError: it does not fit into what is left, with nothing in flight.
        """
        async with self._released:
            while self._budget is not None and self.spent + self._reserved + most > self._budget:
                if not self._reserved:
                    raise UserError(
                        f"--budget_usd={self._budget}",
                        expected=f"room for one more request, of at most ${usd(most)}",
                        found=f"${usd(self.spent)} spent",
                        remedy="nothing is lost: run the same command with a larger budget to go on",
                    )
                await self._released.wait()
            self._reserved += most

    async def release(self, most: Decimal) -> None:
        """Gives back what `reserve` set aside."""
        async with self._released:
            self._reserved -= most
            self._released.notify_all()


def usd(amount: Decimal) -> str:
    """An amount with cents, or with as many digits as a small one needs."""
    return f"{amount:.2f}" if amount == 0 or amount >= 1 else f"{amount:.4f}"
