"""The order of things: requests go out together, and what they bring is taken in the order of their numbers.

    ask ─ accept ─ complete ─ write      request 0
    ask ─────────── accept ─ … ─ write   request 1     accept waits for request 0's accept, write for its write

So the output depends on the answers and not on when they come. A request that shows earlier records as examples, or
balances topics, knows what the requests up to `window` before it have brought, whichever others are done.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.remote.client import Client, NotSent
from alpaca_jax.remote.log import RequestLog
from alpaca_jax.remote.money import Account, usd
from alpaca_jax.remote.protocol import Ask
from alpaca_jax.self_instruct.filters import Pool, unfit
from alpaca_jax.self_instruct.modes import Candidate, all_of, mode_of
from alpaca_jax.self_instruct.output import Output
from alpaca_jax.self_instruct.parsing import parse_score
from alpaca_jax.self_instruct.seeds import Drawn, Examples, Made, Seed
from alpaca_jax.self_instruct.settings import Settings
from alpaca_jax.self_instruct.texts import SCORE_SCHEMA, judge_request
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import ProgressBar

# So many requests one after another without a record: something is wrong that money does not mend.
_BARREN = 20
_FIRST_GUESS = 10  # records that a prompt brings, before anything is known
_SCORE_TOKENS = 16


@dataclasses.dataclass
class _Request:
    """Where a request stands."""

    drawn: Sequence[Drawn]
    accepted: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    written: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    broken: bool = False
    made: list[Made] = dataclasses.field(default_factory=list)

    def end(self) -> None:
        """Lets those after it see that they need not wait for it."""
        self.broken = True
        self.accepted.set()
        self.written.set()


@dataclasses.dataclass
class _Record:
    """A record before it is written: its candidate, the size of the pool that it met, and its score."""

    task: Instruction
    candidate: Candidate
    pool_size: int
    request_id: str
    score: int | None = None


class Pipeline:
    """Makes the records of one data set."""

    def __init__(
        self,
        settings: Settings,
        seeds: Sequence[Seed],
        topics: Sequence[str],
        log: RequestLog,
        client: Client,
        account: Account,
        output: Output,
    ):
        """Nothing made yet; `log.settings` holds the window."""
        self._settings, self._log, self._client, self._account = settings, log, client, account
        self._output, self._window = output, log.settings["window"]
        self._mode = mode_of(settings, seeds)
        self._examples = Examples(settings, seeds, topics)
        names = [(seed.name, seed.task.instruction) for seed in seeds]
        self._pool = Pool(names, settings.near, english=settings.english)
        self._requests = list[_Request | None]()
        self._moved = asyncio.Event()
        self._error: Exception | None = None
        self._barren = 0
        self.written = 0  # requests
        self.rejected = Counter[str]()

    async def run(self) -> None:
        """Makes records until there are enough, or the requests of a dry run have been made.

        Raises:
          UserError: the server, the budget or the answers do not allow to go on; what was made is kept.
        """
        running = set[asyncio.Task[None]]()
        with ProgressBar("records", self._settings.num) as self._bar:
            try:
                await self._start_requests(running)
                self._client.stop()
                await asyncio.gather(*running)
            finally:  # Ctrl-C: before the connections are closed under them
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if self._error:
            raise self._error

    async def _start_requests(self, running: set[asyncio.Task[None]]) -> None:
        """Starts requests, one after another as there is room, until no more are needed or can be made."""
        while self._output.count < self._settings.num and not self._error:
            number = len(self._requests)
            if number == self._settings.dry_run and self.written == number:
                return
            if not self._has_room(number):
                self._moved.clear()
                await self._moved.wait()
                continue
            if number >= self._window:
                settled = self._requests[number - self._window]
                assert settled is not None, "each is settled once"
                self._examples.settle(settled.drawn, settled.made)
                self._requests[number - self._window] = None
            request = _Request(self._examples.draw(number, self._mode.prompts))
            previous = self._requests[-1] if self._requests else None
            self._requests.append(request)
            task = asyncio.create_task(self._carry_out(number, request, previous))
            running.add(task)
            task.add_done_callback(running.discard)

    def _has_room(self, number: int) -> bool:
        """Whether the next request can be made, and is likely to be needed."""
        if number == self._settings.dry_run:
            return False
        if number >= self._window:
            before = self._requests[number - self._window]
            if before and not before.written.is_set():
                return False
        under_way = number - self.written
        mean = self._output.count / self.written if self.written else _FIRST_GUESS * self._mode.prompts
        return not under_way or self._output.count + under_way * mean < self._settings.num

    async def _carry_out(self, number: int, request: _Request, previous: _Request | None) -> None:
        """All of one request; an error ends the run."""
        try:
            await self._steps(number, request, previous)
        except NotSent:
            request.end()
        except Exception as error:
            self._error = self._error or error
            self._client.stop()
            request.end()
        self._moved.set()

    async def _steps(self, number: int, request: _Request, previous: _Request | None) -> None:
        ask = self._mode.ask(number, request.drawn)
        known = ask.key in self._log.answers
        answer = await self._client.ask(ask)
        candidates, rejected = list[Candidate](), Counter[str]()
        if answer:
            candidates, rejected = self._mode.candidates(answer, request.drawn)
        if previous:
            await self._turn(previous, previous.accepted)
        accepted = [(one, len(self._pool)) for one in candidates if self._accept(one, rejected)]
        request.accepted.set()
        records = await all_of([self._complete(one, size - 1, rejected) for one, size in accepted])
        if previous:
            await self._turn(previous, previous.written)
        self._write([record for several in records for record in several], request, rejected)
        if not known:
            self._check_yield(request)
        request.written.set()

    async def _turn(self, previous: _Request, step: asyncio.Event) -> None:
        await step.wait()
        if previous.broken or self._output.count >= self._settings.num:
            raise NotSent

    def _accept(self, candidate: Candidate, rejected: Counter[str]) -> bool:
        """Whether an instruction passes the filters; then it is in the pool."""
        reason = unfit(candidate.instruction, english=self._settings.english)
        if not reason and self._pool.is_near(candidate.instruction):
            reason = "near_duplicate"
        if reason:
            rejected[reason] += 1
            return False
        self._pool.add(candidate.name, candidate.instruction)
        return True

    async def _complete(self, candidate: Candidate, size: int, rejected: Counter[str]) -> list[_Record]:
        """The records of a candidate, scored where there is a judge."""
        completed = await self._mode.complete(candidate, self._client)
        rejected.update(completed.rejected)
        records = [_Record(task, candidate, size, completed.request_id) for task in completed.tasks]
        if self._settings.judge:
            scores = await all_of([self._judge(number, record) for number, record in enumerate(records)])
            for record, score in zip(records, scores, strict=True):
                record.score = score
        return records

    async def _judge(self, number: int, record: _Record) -> int | None:
        """The score that the judge gives; None where it gives none."""
        assert self._settings.judge
        ask = Ask(
            key=f"{record.candidate.name}/judge/{number}",
            model=self._settings.judge,
            prompts=(judge_request(record.task, structured=False),),
            structured=(judge_request(record.task, structured=True), SCORE_SCHEMA),
            max_tokens=_SCORE_TOKENS,
            chat=self._settings.api == "chat",
        )
        answer = await self._client.ask(ask)
        return parse_score(answer.choices[0]) if answer else None

    def _write(self, records: Sequence[_Record], request: _Request, rejected: Counter[str]) -> None:
        """Writes the records of a request, as many as are wanted."""
        before = self._output.count
        for record in records:
            if record.score is not None and record.score < self._settings.judge_min:
                rejected["judged_low"] += 1
            elif self._output.count < self._settings.num:
                self._output.write(record.task, {} if self._output.next_has_source else self._source(record))
                request.made.append(Made(record.candidate.name, record.task, record.candidate.drawn.topic))
        self.written += 1
        self.rejected.update(rejected)
        self._bar.advance(self._output.count - before, self._note())

    def _check_yield(self, request: _Request) -> None:
        """Ends a run whose requests bring nothing.

        Raises:
          UserError: so many of this run brought nothing, one after another.
        """
        self._barren = 0 if request.made else self._barren + 1
        if self._barren == _BARREN:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common(4)) or "no tasks"
            raise UserError(
                f"the model {self._settings.model}",
                expected="tasks that pass the filters",
                found=f"{_BARREN} requests one after another without one (rejected in all: {reasons})",
                remedy=f"look at the answers in {self._log.path}",
            )

    def _source(self, record: _Record) -> dict[str, Any]:
        """The provenance of a record."""
        candidate = record.candidate
        source: dict[str, Any] = {
            "name": candidate.name,
            "model": candidate.answer.model,
            "request_id": candidate.answer.request_id,
            "time": candidate.answer.time,
            "examples": list(candidate.drawn.names),
        }
        if record.request_id != candidate.answer.request_id:
            source["instances_request_id"] = record.request_id
        if candidate.drawn.topic:
            source["topic"] = candidate.drawn.topic
        if self._settings.judge:
            source["judge"] = {"model": self._settings.judge, "score": record.score}
        return source | self._pool.likeness(candidate.instruction, record.pool_size)

    def predicted(self) -> Decimal | None:
        """What all records will have cost, if they go on as so far; None where that cannot be known."""
        if not self._output.count or not self._account.knows(self._settings.model):
            return None
        return self._account.spent * max(Decimal(1), Decimal(self._settings.num) / self._output.count)

    def _note(self) -> str:
        predicted = self.predicted()
        if predicted is None:
            return f"{self._account.prompt_tokens + self._account.answer_tokens:,} tokens"
        return f"${usd(self._account.spent)} so far, ${usd(predicted)} in all"
