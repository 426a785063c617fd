"""A data set made, or gone on with: what the program `selfinstruct` does, in order."""

import asyncio
import contextlib
from typing import Any

from alpaca_jax.remote.client import Client, take_up
from alpaca_jax.remote.connection import key_and_address
from alpaca_jax.remote.log import LOG, RequestLog
from alpaca_jax.remote.money import Account
from alpaca_jax.self_instruct.output import Output
from alpaca_jax.self_instruct.pipeline import Pipeline
from alpaca_jax.self_instruct.seeds import Seed, read_seeds, read_topics
from alpaca_jax.self_instruct.settings import Settings
from alpaca_jax.support.continued import beside, check_output
from alpaca_jax.support.hashing import sha256_text


def make(settings: Settings) -> dict[str, Any]:
    """Makes the records that the settings ask for, after those that earlier runs into the same files made.

    Returns:
      Counts and cost, over all these runs: `records, requests, rejected {reason: n}, prompt_tokens, answer_tokens,
      cost_usd, predicted_usd` (None without a price), `failed_attempts`, `given_up` requests, `lost` requests (sent,
      and unanswered when a run was killed: they may have been charged) and `unmeasured` answers (whose tokens the
      server did not count).

    Raises:
      UserError: seeds or topics that cannot be used; no price where there is a budget; a server that cannot be reached
        or refuses; a spent budget. What was made and paid for is kept, and the same command goes on from there.
    """
    seeds, topics = read_seeds(settings), read_topics(settings.topics)
    account = settings.connection.account(settings.model, *filter(None, [settings.judge]))
    log_path = beside(settings.out, LOG)
    check_output(settings.out, log_path)
    key_and_address(settings.connection.base_url)
    identity = settings.identity() | {"seeds": sha256_text(repr((seeds, topics)))[:16]}
    with contextlib.closing(RequestLog(log_path, identity | {"window": 2 * settings.connection.concurrency})) as log:
        return asyncio.run(_make(settings, log, seeds, topics, account))


async def _make(
    settings: Settings, log: RequestLog, seeds: list[Seed], topics: list[str], account: Account
) -> dict[str, Any]:
    take_up(log, account)
    with Output(settings.out, beside(settings.out, "provenance.jsonl")) as output:
        async with Client(settings.connection, log, account) as client:
            pipeline = Pipeline(settings, seeds, topics, log, client, account, output)
            await pipeline.run()
        predicted = pipeline.predicted()
        priced = all(account.knows(model) for model in {settings.model, settings.judge or settings.model})
        return {
            "records": output.records,
            "requests": len(log.answers),
            "rejected": dict(sorted(pipeline.rejected.items())),
            "prompt_tokens": account.prompt_tokens,
            "answer_tokens": account.answer_tokens,
            "cost_usd": float(account.spent) if priced else None,
            "predicted_usd": None if predicted is None or not priced else round(float(predicted), 6),
            "failed_attempts": log.failures,
            "given_up": len(log.given_up),
            "lost": log.lost,
            "unmeasured": account.unmeasured,
        }
