"""The content filter: what may be asked, and what may be answered. Where it cannot tell, nothing passes."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from alpaca_jax.remote.connection import key_and_address
from alpaca_jax.serving.refusal import Refusal
from alpaca_jax.serving.word_list import WordList
from alpaca_jax.support.errors import UserError

_SECONDS = 10.0
_LONGEST_INPUT = 8_000  # characters of one text, as the service takes it
_CATEGORY = 40  # characters of a service's own word that is counted


class Filter(Protocol):
    """Says whether a text may pass.

    Attributes:
      reach: characters at the end of a text that must be seen again together with what follows.
    """

    reach: int

    async def check(self, text: str) -> str | None:
        """The reason for which a text is stopped, as it is counted; None where it may pass.

        Raises:
          Refusal: it cannot be told (503).
        """

    async def close(self) -> None:
        """Ends its connections."""


class WordListFilter:
    """Stops what a local list names."""

    def __init__(self, path: str | Path):
        """Reads the list; errors as `WordList`."""
        self._words = WordList(path)
        self.reach = self._words.reach

    async def check(self, text: str) -> str | None:
        """As `Filter.check`."""
        try:
            # In a thread: a bad expression takes its quarter of a second of this request's time, not of all.
            found = await asyncio.to_thread(self._words.finds, text)
        except TimeoutError as error:
            raise _unavailable("an expression of the word list takes too long") from error
        return "wordlist" if found else None

    async def close(self) -> None:
        """As `Filter.close`: it has none."""


class OpenAIFilter:
    """Stops what OpenAI's moderation endpoint, or a server that speaks like it, flags."""

    reach = 0

    def __init__(self, environment: Mapping[str, str], base_url: str | None):
        """Ready to ask; errors as `key_and_address`."""
        from openai import AsyncOpenAI

        key, address = key_and_address(base_url, environment, "--moderation_base_url")
        self._client = AsyncOpenAI(api_key=key or "none", base_url=address, timeout=_SECONDS, max_retries=1)

    async def check(self, text: str) -> str | None:
        """As `Filter.check`."""
        from openai import OpenAIError

        if not text.strip():
            return None
        parts = [text[start : start + _LONGEST_INPUT] for start in range(0, len(text), _LONGEST_INPUT)]
        try:
            async with asyncio.timeout(2 * _SECONDS):
                answer = await self._client.moderations.create(input=parts)
            results = list(answer.results)
            flags = [result.flagged for result in results]
            if len(results) != len(parts) or not all(isinstance(flag, bool) for flag in flags):
                raise ValueError("not one verdict for each text")
        except (OpenAIError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            raise _unavailable("the moderation service does not answer as it should") from error
        return next((_reason(result) for result in results if result.flagged), None)

    async def close(self) -> None:
        """As `Filter.close`."""
        await self._client.close()


class Both:
    """Stops what any of several filters stops; the cheapest is asked first."""

    def __init__(self, *filters: Filter):
        """In the order in which they are asked."""
        self._filters = filters
        self.reach = max(each.reach for each in filters)

    async def check(self, text: str) -> str | None:
        """As `Filter.check`."""
        for each in self._filters:
            if reason := await each.check(text):
                return reason
        return None

    async def close(self) -> None:
        """As `Filter.close`."""
        for each in self._filters:
            await each.close()


def make_filter(
    kind: str, environment: Mapping[str, str], wordlist: str | Path | None, base_url: str | None
) -> Filter | None:
    """The filter that the flags of `serve` ask for.

    Raises:
      UserError: a flag is missing or without effect, or as the filters.
    """
    for name, value, kinds in (
        ("--wordlist", wordlist, ("wordlist", "both")),
        ("--moderation_base_url", base_url, ("openai", "both")),
    ):
        if value and kind not in kinds:
            raise UserError(
                name,
                expected=f"--moderation={' or '.join(kinds)} beside it",
                found=f"--moderation={kind}",
                remedy="give both or neither",
            )
    if kind in ("wordlist", "both") and not wordlist:
        raise UserError(
            f"--moderation={kind}", expected="--wordlist=FILE beside it", found="none", remedy="name the file"
        )
    filters: list[Filter] = []
    if kind in ("wordlist", "both") and wordlist:
        filters.append(WordListFilter(wordlist))
    if kind in ("openai", "both"):
        filters.append(OpenAIFilter(environment, base_url))
    return Both(*filters) if len(filters) > 1 else filters[0] if filters else None


def _reason(result: object) -> str:
    """The first category that a service names."""
    with contextlib.suppress(AttributeError, TypeError):
        categories = result.categories.model_dump(by_alias=True)  # type: ignore[attr-defined]
        named = sorted(name for name, holds in categories.items() if holds is True)
        if named:
            return f"openai:{named[0]}"[:_CATEGORY]
    return "openai"


def _unavailable(what: str) -> Refusal:
    return Refusal(
        503,
        "server_error",
        f"The content filter cannot be asked ({what}), and without it nothing is answered. Try again later.",
        "moderation_unavailable",
        retry_after=10,
    )
