"""Requests to a server: some at a time, within its limits and the budget, sent again where that helps, and logged."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from alpaca_jax.remote.connection import Connection, key_and_address
from alpaca_jax.remote.log import Answer, RequestLog, now
from alpaca_jax.remote.money import Account
from alpaca_jax.remote.protocol import (
    Ask,
    Call,
    call_of,
    concession,
    may_try_again,
    read_answer,
    reason_of,
    remedy_for,
    retry_after,
)
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import console

# Between attempts: a random time below a bound that begins here and doubles, or what the server asks for.
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
_LONGEST_ASKED_SECONDS = 600.0  # a server that asks for more means a quota, not a moment
_CONNECT_SECONDS = 20.0


class NotSent(Exception):
    """A request that was not sent because the run ends."""


class _Failure(Exception):
    """An attempt that brought no answer, and may bring one when it is repeated.

    Attributes:
      wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, wait: float | None):
        super().__init__(reason)
        self.wait = wait


def take_up(log: RequestLog, account: Account) -> None:
    """Books what the answers in a log have cost, and says that they are there."""
    for answer in log.answers.values():
        account.book(answer.model, answer.prompt_tokens, answer.answer_tokens, answer.measured)
    if log.answers:
        console.print(f"going on from {len(log.answers)} answers in {log.path}", markup=False)


class Client:
    """The server, as an asynchronous context manager. Every answer is in the log before it is returned."""

    def __init__(self, connection: Connection, log: RequestLog, account: Account):
        """Nothing sent yet.

        Args:
          connection: the address, the limits, the attempts.
          log: answers that are there are not asked for again.
          account: holds the budget.
        """
        import aiolimiter
        import openai

        self._connection, self._log, self._account = connection, log, account
        self._key, base_url = key_and_address(connection.base_url)
        timeout = openai.Timeout(connection.timeout, connect=min(_CONNECT_SECONDS, connection.timeout))
        # A server without keys is sent one that is none. Attempts are ours to make: each is logged and limited.
        self._openai = openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=base_url, max_retries=0, timeout=timeout
        )
        self._name = str(self._openai.base_url)
        self._places = asyncio.Semaphore(connection.concurrency)
        self._limits = [
            (aiolimiter.AsyncLimiter(limit), counts_tokens)
            for limit, counts_tokens in ((connection.requests_per_minute, False), (connection.tokens_per_minute, True))
            if limit
        ]
        self._conceded = set[str]()
        self._stopping = asyncio.Event()
        self._successes = 0
        self._said = set[str]()

    async def __aenter__(self) -> "Client":
        """The client."""
        return self

    async def __aexit__(self, *unused: object) -> None:
        """Closes the connections."""
        await self._openai.close()

    def stop(self) -> None:
        """Sends nothing more; requests in flight come to their end."""
        self._stopping.set()

    async def ask(self, ask: Ask) -> Answer | None:
        """The answer, from the log or the server; None where the server answers others but, in all attempts, not this.

        Raises:
          UserError: the server refuses (a wrong key, …) or has not answered anything for as long as this was tried; the
            budget is spent; the log has an answer to another question.
          NotSent: the run ended before it was.
        """
        if ask.key in self._log.given_up:
            return None
        if answer := self._log.answers.get(ask.key):
            if answer.asked != ask.fingerprint():
                raise UserError(
                    f"{self._log.path}, request {ask.key}",
                    expected="an answer to what is asked now",
                    found="one to something else, asked by another version of this program",
                    remedy="choose another --out",
                )
            return answer
        async with self._places:
            if self._stopping.is_set():
                raise NotSent
            most = self._account.cost(ask.model, *ask.most_tokens())
            await self._account.reserve(most)
            try:
                return await self._attempts(ask)
            finally:
                await self._account.release(most)

    async def _attempts(self, ask: Ask) -> Answer | None:
        """The answer after as many attempts as it takes, or None after as many as are allowed."""
        import tenacity

        successes = self._successes
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Failure),
            stop=tenacity.stop_after_attempt(self._connection.attempts),
            wait=_wait,
            before_sleep=self._announce,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await attempts(self._send, ask)
        except _Failure as failure:
            if self._successes == successes:
                remedy = "nothing is lost: run the same command again when it answers, to go on"
                raise self._refusal(str(failure), remedy) from failure
            self._log.give_up(ask.key)
        return None

    def _announce(self, state: Any) -> None:
        """Says that there will be another attempt, where the reason is new."""
        failure = str(state.outcome.exception())
        if failure not in self._said:
            self._said.add(failure)
            console.print(f"{self._name}: {failure}; trying again", markup=False)

    async def _sleep(self, seconds: float) -> None:
        """Waits, unless the run ends."""
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Waits for something that is not a request in flight.

        Raises:
          NotSent: the run ends first.
        """
        tasks = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._stopping.is_set():
            raise NotSent

    async def _send(self, ask: Ask) -> Answer:
        """One attempt; another at once where the server does not take a parameter.

        Raises:
          _Failure: it may be tried again.
          UserError: it may not.
        """
        for limiter, counts_tokens in self._limits:
            await self._unless_stopped(limiter.acquire(min(limiter.max_rate, ask.tokens()) if counts_tokens else 1))
        if self._stopping.is_set():
            raise NotSent
        call = call_of(ask, self._conceded)
        self._log.append("sent", durable=False, key=ask.key, model=ask.model, prompts=call.prompts, time=now())
        answer = await self._exchange(call)
        if answer is None:
            return await self._send(ask)
        self._account.book(ask.model, answer.prompt_tokens, answer.answer_tokens, answer.measured)
        self._log.answered(answer)
        self._successes += 1
        return answer

    async def _exchange(self, call: Call) -> Answer | None:
        """What comes back for one call; None where it is to be made anew without a parameter."""
        import openai

        interface = self._openai.chat.completions if call.ask.chat else self._openai.completions
        try:
            async with asyncio.timeout(self._connection.timeout):
                response = await interface.with_raw_response.create(**call.parameters)
            return read_answer(call, response.text, response.headers.get("x-request-id"))
        except (openai.APITimeoutError, TimeoutError):
            raise self._failure(call, f"no answer within {self._connection.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise self._failure(call, f"no connection ({_innermost(error)})") from None
        except ValueError as error:
            raise self._failure(call, f"a malformed answer ({error})") from None
        except openai.APIStatusError as error:
            status, text = error.status_code, error.response.text
            if conceded := concession(call, status, text):
                self._concede(*conceded)
                self._log.failed(call.ask.key, f"{status}: {conceded[0]} refused")
                return None
            reason = reason_of(status, error.body, text)
            wait = retry_after(error.response.headers)
            if wait is not None and wait > _LONGEST_ASKED_SECONDS:
                self._log.failed(call.ask.key, self._clean(reason))
                remedy = "run the same command after that time to go on"
                raise self._refusal(f"{reason}; it asks to wait {wait:.0f} s", remedy) from None
            if may_try_again(status, reason):
                raise self._failure(call, reason, wait) from None
            self._log.failed(call.ask.key, self._clean(reason))
            raise self._refusal(reason, remedy_for(status)) from None

    def _concede(self, parameter: str, said: str) -> None:
        if parameter not in self._conceded:  # another request in flight may have met the same
            self._conceded.add(parameter)
            console.print(f"{self._name} refuses {parameter}: {said}", markup=False)

    def _failure(self, call: Call, reason: str, wait: float | None = None) -> _Failure:
        """The failure of an attempt, logged."""
        reason = self._clean(reason)
        self._log.failed(call.ask.key, reason)
        return _Failure(reason, wait)

    def _refusal(self, reason: str, remedy: str) -> UserError:
        return UserError(self._name, expected="an answer", found=self._clean(reason), remedy=remedy)

    def _clean(self, reason: str) -> str:
        """A reason on one line, of moderate length, without the key, which some servers repeat."""
        reason = " ".join(reason.split())
        return (reason.replace(self._key, "[key]") if self._key else reason)[:300]


def _wait(state: Any) -> float:
    """Seconds to the next attempt."""
    failure = state.outcome.exception()
    bound = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1))
    # Those who were told the same time must not all come back at once.
    return random.uniform(bound / 2, bound) if failure.wait is None else failure.wait * random.uniform(1, 1.1)


def _innermost(error: BaseException) -> str:
    """What the operating system said, or what the library makes of it."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    system = [cause for cause in chain if isinstance(cause, OSError)]
    return str((system or chain[:2])[-1])
