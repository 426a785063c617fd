"""Many requests to one server: some at a time, in any order, from the log where they have been answered before."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.remote.client import Client, NotSent, take_up
from alpaca_jax.remote.connection import Connection, key_and_address
from alpaca_jax.remote.log import LOG, RequestLog
from alpaca_jax.remote.money import Account
from alpaca_jax.remote.protocol import Ask
from alpaca_jax.support.continued import beside, check_output
from alpaca_jax.support.progress import ProgressBar


def ask_all(
    asks: Sequence[Ask],
    connection: Connection,
    out: Path,
    identity: dict[str, Any],
    write: Callable[[RequestLog], None],
    title: str,
) -> dict[str, Any]:
    """Asks what the log has no answer to, then writes the output from the log, also where it must stop before the end.

    Args:
      asks: requests to one model, each with a key of its own.
      connection: the server, its limits and the budget.
      out: what `write` writes; the log lies beside it.
      identity: what decides the answers; a log begun with another is refused.
      write: makes the output from what has been answered so far.
      title: of the progress bar.

    Returns:
      Counts and cost, over all runs into the same log: `requests, prompt_tokens, answer_tokens, cost_usd` (None without
      a price), `failed_attempts, given_up`.

    Raises:
      UserError: `out` is another's; the server refuses or cannot be reached; the budget is spent. What was paid for is
        in the log, and the same command goes on from there.
    """
    account = connection.account(asks[0].model)
    log_path = beside(out, LOG)
    check_output(out, log_path)
    key_and_address(connection.base_url)
    with contextlib.closing(RequestLog(log_path, identity)) as log:
        take_up(log, account)
        try:
            asyncio.run(_ask_all(asks, connection, log, account, title))
        finally:
            if log.answers or log.given_up:
                write(log)
        return {
            "requests": len(log.answers),
            "prompt_tokens": account.prompt_tokens,
            "answer_tokens": account.answer_tokens,
            "cost_usd": float(account.spent) if account.knows(asks[0].model) else None,
            "failed_attempts": log.failures,
            "given_up": len(log.given_up),
        }


async def _ask_all(asks: Sequence[Ask], connection: Connection, log: RequestLog, account: Account, title: str) -> None:
    errors: list[Exception] = []
    async with Client(connection, log, account) as client:
        with ProgressBar(title, len(asks)) as bar:

            async def one(ask: Ask) -> None:
                try:
                    await client.ask(ask)
                    bar.advance()
                except NotSent:
                    pass
                except Exception as error:
                    errors.append(error)
                    client.stop()  # those in flight come to their end, and into the log

            tasks = [asyncio.create_task(one(ask)) for ask in asks]
            try:
                await asyncio.gather(*tasks)
            finally:  # Ctrl-C: before the connections are closed under them
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    if errors:
        raise errors[0]
