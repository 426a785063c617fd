"""The log of requests and their outcomes: what was paid for is here, and a run that was killed goes on from it.

One JSON object a line, only ever appended:

    {"kind": "settings", …}                   what the log was begun with
    {"kind": "sent", "key": "12", "prompts": […], "model": …, "time": …}
    {"kind": "failure", "key": "12", "reason": "429: …", "time": …}           an attempt; the request is sent again
    {"kind": "answer", "key": "12", "choices": [{"text": …, "finish": …}], …}
    {"kind": "given_up", "key": "13", …}      after the last attempt, while the server answered other requests
"""

import dataclasses
import datetime
import fcntl
import json
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from alpaca_jax.support.continued import check_settings
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import LONGEST_LINE, explain_os_errors, parse_json

LOG = "requests.jsonl"  # its name beside an output, after the output's


class Choice(NamedTuple):
    """One text that a model answered with, and why it ended there, as the server says (`stop`, `length`, …)."""

    text: str
    finish: str | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for a request.

    Attributes:
      key: the request's.
      asked: a hash of what was asked.
      form: `json` where the server was told a schema, `text` otherwise.
      choices: a text for each prompt.
      model: the name that was asked for.
      request_id: the server's name of this answer.
      prompt_tokens, answer_tokens: as the server counts them, or estimates where
      measured: is False.
      time: when the answer came, in UTC.
    """

    key: str
    asked: str
    form: str
    choices: tuple[Choice, ...]
    model: str
    request_id: str
    prompt_tokens: int
    answer_tokens: int
    measured: bool
    time: str


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class RequestLog:
    """The log, open for one process alone."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        """Opens the log, or begins it.

        Args:
          path: the file.
          settings: what decides the content of the output, which must be what the log was begun with; `window`, where
            there is one, is taken from the log.

        A log in which no answer is, and no request that may have been charged, is begun anew.

        Raises:
          UserError: a log that another process writes, that was begun with other settings, that is damaged before its
            last line, or that cannot be written.
        """
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.given_up: set[str] = set()
        self.failures = 0
        self._open: set[str] = set()  # sent, and nothing heard of it since
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._begin(settings)
        except BaseException:
            self.close()
            raise
        self.lost = len(self._open)

    def _begin(self, settings: dict[str, Any]) -> None:
        """Reads what is there and holds its settings against ours, where anything has come of them."""
        known = self._read()
        if not (self.answers or self.given_up or self._open):
            # A model or an address that was misspelt, say: the next run is to begin as if that one had not been.
            with explain_os_errors(self.path):
                os.ftruncate(self._file, 0)
            self.failures, known = 0, None
        if known is None:
            self.append("settings", settings=settings)
            self.settings = settings
            return
        self.settings = settings | ({"window": known.get("window")} if "window" in settings else {})
        check_settings(self.path, self.settings, known)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                str(self.path),
                expected="one process at a time",
                found="another that is writing it",
                remedy="wait for that one, or choose another --out",
            ) from error

    def _read(self) -> dict[str, Any] | None:
        """Takes in the lines and cuts off one that a kill or a loss of power tore.

        Returns:
          The settings that the log was begun with; None for an empty one.
        """
        settings = None
        whole = 0
        with explain_os_errors(self.path), open(self.path, "rb") as file:
            size = os.fstat(self._file).st_size
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("no end of the line")
                    entry = parse_json(line.decode())
                    if number == 1:
                        settings = dict(entry["settings"])
                    else:
                        self._take(entry)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    if file.tell() < size:
                        self._refuse(number, error)
                    break
                whole = file.tell()
            os.ftruncate(self._file, whole)
        return settings

    def _refuse(self, number: int, error: Exception) -> NoReturn:
        remedy = "restore the file, or choose another --out"
        found = shorten(f"{type(error).__name__}: {error}")
        expected = "a line of the log of requests"
        raise UserError(f"{self.path}, line {number}", expected=expected, found=found, remedy=remedy) from error

    def _take(self, entry: dict[str, Any]) -> None:
        kind, key = entry.pop("kind"), entry["key"]
        self._open.discard(key)
        if kind == "sent":
            self._open.add(key)
        elif kind == "answer":
            entry["choices"] = tuple(Choice(**choice) for choice in entry["choices"])
            self.answers[key] = Answer(**entry)
        elif kind == "failure":
            self.failures += 1
        elif kind == "given_up":
            self.given_up.add(key)

    def append(self, kind: str, *, durable: bool = True, **fields: Any) -> None:
        """Adds a line, which then survives the end of this process, and if `durable` also the loss of power.

        Raises:
          UserError: no room, or no permission.
        """
        line = (json.dumps({"kind": kind, **fields}, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with explain_os_errors(self.path):
            while line:
                line = line[os.write(self._file, line) :]
            if durable:
                os.fsync(self._file)

    def answered(self, answer: Answer) -> None:
        """Adds an answer."""
        entry = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
        self.append("answer", **entry | {"choices": [choice._asdict() for choice in answer.choices]})
        self.answers[answer.key] = answer

    def failed(self, key: str, reason: str) -> None:
        """Adds an attempt that brought no answer."""
        self.failures += 1
        self.append("failure", durable=False, key=key, reason=reason, time=now())

    def give_up(self, key: str) -> None:
        """Adds that a request will not be sent again, in this run and those after it."""
        self.given_up.add(key)
        self.append("given_up", key=key, time=now())

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)
