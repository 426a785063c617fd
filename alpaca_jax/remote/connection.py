"""How a server is reached and what may be spent on it: flags that several programs share."""

import argparse
import dataclasses
import os
import urllib.parse
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from alpaca_jax.remote.money import Account, Price, read_prices
from alpaca_jax.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class Connection:
    """A server, its limits and the budget; nothing here changes what is asked.

    Attributes:
      base_url: the server's address up to `/v1`; None: what the environment says, else OpenAI's.
      concurrency: requests in flight.
      requests_per_minute, tokens_per_minute: limits of what is sent; a request counts its prompt, estimated, and its
        `max_tokens`.
      timeout: seconds until an answer must be complete.
      attempts: how often a request is sent before it is given up.
      budget_usd: the most to spend, together with earlier runs into the same log.
      prices: file of prices by model; None: the package's.
      price_in, price_out: USD for a million tokens of prompts and answers of the model, in place of the table's.

    Raises:
      UserError: a value out of range, with its flag.
    """

    base_url: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 300.0
    attempts: int = 6
    budget_usd: Decimal | None = None
    prices: Path | None = None
    price_in: Decimal | None = None
    price_out: Decimal | None = None

    def __post_init__(self) -> None:
        """Refuses what is out of range or does not go together."""
        for flag in ("concurrency", "timeout", "attempts"):
            self._require(flag, getattr(self, flag) > 0, "more than 0")
        for flag in ("requests_per_minute", "tokens_per_minute"):
            self._require(flag, getattr(self, flag) is None or getattr(self, flag) >= 1, "at least 1")
        for flag in ("price_in", "price_out", "budget_usd"):
            amount = getattr(self, flag)
            self._require(flag, amount is None or (amount.is_finite() and amount >= 0), "USD, at least 0")
        if (self.price_in is None) != (self.price_out is None):
            given, other = ("--price_in", "--price_out") if self.price_out is None else ("--price_out", "--price_in")
            raise UserError(given, expected=f"{other} with it", found="it alone", remedy="give both or neither")

    def _require(self, flag: str, holds: bool, expected: str) -> None:
        if not holds:
            found = str(getattr(self, flag))
            raise UserError(f"--{flag}", expected=expected, found=found, remedy="see --help for its meaning")

    def account(self, model: str, *others: str) -> Account:
        """An account with nothing spent, which knows the prices of these models as far as they are known.

        Args:
          model: the one that `price_in` and `price_out` are of.
          others: asked too.

        Raises:
          UserError: a table that cannot be read, or a budget and a model without a price.
        """
        prices = read_prices(self.prices)
        if self.price_in is not None and self.price_out is not None:
            prices[model] = Price(self.price_in, self.price_out)
        for name in (model, *others):
            if self.budget_usd is not None and name not in prices:
                raise UserError(
                    "--budget_usd",
                    expected=f"a price for {name}",
                    found="none in the table",
                    remedy="give --price_in and --price_out, or a table with it by --prices",
                )
        return Account(prices, self.budget_usd)


def key_and_address(
    base_url: str | None, environment: Mapping[str, str] | None = None, flag: str = "--base_url"
) -> tuple[str, str | None]:
    """The key, or nothing for a server that needs none, and its address, or None for OpenAI's own.

    Args:
      base_url: what the user gave; None: OPENAI_BASE_URL, if the environment has it.
      environment: where that and OPENAI_API_KEY stand; None for the process's own.
      flag: what the user gives the address by.

    Raises:
      UserError: no key where OpenAI's own address is meant, or an address that is none.
    """
    environment = os.environ if environment is None else environment
    key, address = environment.get("OPENAI_API_KEY", ""), base_url or environment.get("OPENAI_BASE_URL") or None
    if not key and not address:
        raise UserError(
            "OPENAI_API_KEY",
            expected="the key in the environment",
            found="no such variable",
            remedy=f"set it, or name a server that needs none with {flag}",
        )
    if address and not _is_address(address):
        raise UserError(
            flag if base_url else "OPENAI_BASE_URL",
            expected="an http or https address",
            found=address,
            remedy="give it with its scheme, such as http://127.0.0.1:8000/v1",
        )
    return key, address


def _is_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:  # a port that is no number, or too large
        return False


CONNECTION_FLAGS = tuple(field.name for field in dataclasses.fields(Connection))


def add_connection_flags(flags: argparse.ArgumentParser) -> None:
    """Adds `--api` and the flags of `Connection`; those that are not given are left to the defaults where they go."""

    def add(name: str, **options: Any) -> None:
        flags.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)

    interfaces = ("chat", "completions")
    add("api", choices=interfaces, metavar="KIND", help="chat (default), or completions: goes on with texts")
    add("base_url", metavar="URL", help="the server, up to /v1 (default: OPENAI_BASE_URL, else OpenAI's)")
    add("budget_usd", metavar="B", type=_dollars, help="the most to spend, earlier runs of this OUT included")
    add("prices", metavar="FILE", type=Path, help="prices by model, as alpaca_jax/remote/prices.toml")
    add("price_in", metavar="USD", type=_dollars, help="of a million tokens of prompts, with")
    add("price_out", metavar="USD", type=_dollars, help="of a million tokens of answers")
    add("concurrency", metavar="N", type=int, help="requests in flight (default 8)")
    add("requests_per_minute", metavar="N", type=float, help="limit of the server")
    add("tokens_per_minute", metavar="N", type=float, help="limit of the server")
    add("timeout", metavar="SECONDS", type=float, help="for one answer (default 300)")
    add("attempts", metavar="N", type=int, help="times that a request is sent before it is given up (default 6)")


def take_connection(values: dict[str, Any]) -> Connection:
    """The connection in the values of flags, from which its own are taken out."""
    names = [name for name in CONNECTION_FLAGS if name in values]
    return Connection(**{name: values.pop(name) for name in names})


def _dollars(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount") from error
