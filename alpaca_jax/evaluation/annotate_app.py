"""What the page of `evaluate annotate` asks for: who votes, the next pair, a vote, and a vote taken back.

A pair goes out as the texts on its two sides. Neither the models' names nor which answer is `a` leaves this process;
the key of the pair file is not even read.
"""

import functools
import sqlite3
import unicodedata
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from alpaca_jax.evaluation.pairs import Pairs, Shown
from alpaca_jax.evaluation.votes import Verdict, Votes
from alpaca_jax.serving.guard import Guard
from alpaca_jax.serving.metrics import Metrics
from alpaca_jax.serving.refusal import Refusal, answer_refusal, invalid
from alpaca_jax.serving.settings import Limits

LONGEST_NAME, LONGEST_COMMENT = 60, 4000  # characters

_FOLDER = Path(__file__).with_name("annotate_page")
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Answers are shown as text and never as markup; should one slip through, it could load and send nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Named(BaseModel):
    """A request of an annotator."""

    model_config = ConfigDict(extra="forbid")
    annotator: str = Field(max_length=4 * LONGEST_NAME)


class TakenBack(Named):
    """The pair whose vote is to be undone; it must be the annotator's latest."""

    pair: str


class Ballot(Named):
    """A vote, by side."""

    pair: str
    choice: Literal["left", "right", "tie"]
    comment: str = Field("", max_length=LONGEST_COMMENT)


def create_app(
    pairs: Pairs, votes: Votes, limits: Limits, *, key: str | None = None, hosts: Collection[str] = ()
) -> FastAPI:
    """The application.

    Args:
      pairs: what is compared.
      votes: where votes go.
      limits: of requests' bodies.
      key: the password that browsers must give; None for none.
      hosts: names that the server has besides those of the loopback.
    """
    app = FastAPI(title="annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_with_headers)
    app.add_middleware(Guard, limits=limits, metrics=Metrics(), key=key, hosts=hosts)
    app.add_exception_handler(Refusal, answer_refusal)
    app.add_exception_handler(sqlite3.Error, _not_written)
    app.state.end_pages = lambda: None  # the server says when it ends; no request here lasts
    desk = _Desk(pairs, votes)
    app.add_api_route("/api/annotators", desk.annotators, methods=["GET"], response_model=None)
    app.add_api_route("/api/start", desk.start, methods=["POST"], response_model=None)
    app.add_api_route("/api/vote", desk.vote, methods=["POST"], response_model=None)
    app.add_api_route("/api/undo", desk.undo, methods=["POST"], response_model=None)
    for path, (name, kind) in _FILES.items():
        app.add_route(path, _file((_FOLDER / name).read_bytes(), kind))
    return app


class _Desk:
    """The requests, each answered with the state of things for the annotator who asks."""

    def __init__(self, pairs: Pairs, votes: Votes):
        self._pairs, self._votes = pairs, votes
        self._sheet = functools.lru_cache(maxsize=256)(pairs.sheet)

    def annotators(self) -> dict[str, Any]:
        """Who has voted, and how far each is."""
        known = [{"name": name, "done": done} for name, done in self._votes.annotators().items()]
        return {"total": len(self._pairs.pairs), "annotators": known}

    def start(self, ask: Named) -> dict[str, Any]:
        """The state for an annotator who comes, or comes back."""
        return self._state(self._name(ask.annotator))

    def vote(self, ballot: Ballot) -> dict[str, Any]:
        """Saves a vote. One that is there already stays, and the page is told so; the same again is none the worse."""
        name = self._name(ballot.annotator)
        shown = next((shown for shown in self._sheet(name) if shown.pair.id == ballot.pair), None)
        if shown is None:
            raise invalid("There is no such pair. Load the page again.")
        sides: dict[str, Verdict] = {"left": shown.left, "right": shown.right, "tie": "tie"}
        if self._votes.add(name, shown, sides[ballot.choice], ballot.comment.strip()):
            return self._state(name)
        return self._state(name) | {"notice": "You had voted on that pair before, in another tab: that vote stays."}

    def undo(self, ask: TakenBack) -> dict[str, Any]:
        """Takes the latest vote back, so that its pair is the next again."""
        name = self._name(ask.annotator)
        vote = self._votes.take_back(name, ask.pair)
        if vote is None:
            return self._state(name) | {"notice": "Nothing undone: that was not your latest vote, after another tab's."}
        side = "tie" if vote.vote == "tie" else "left" if vote.vote == vote.left else "right"
        return self._state(name) | {"undone": {"choice": side, "comment": vote.comment}}

    def _state(self, name: str) -> dict[str, Any]:
        votes = self._votes.all(name)
        done = {vote.pair for vote in votes}
        shown = next((shown for shown in self._sheet(name) if shown.pair.id not in done), None)
        return {
            "annotator": name,
            "done": len(done),
            "total": len(self._pairs.pairs),
            "last": votes[-1].pair if votes else None,
            "pair": None if shown is None else _sides(shown),
        }

    def _name(self, text: str) -> str:
        """The name as it is kept: without needless spaces, and as it was spelt the first time."""
        name = " ".join(unicodedata.normalize("NFC", text).split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise invalid(f"A name has 1 to {LONGEST_NAME} letters. Correct it.")
        return next((known for known in self._votes.annotators() if known.casefold() == name.casefold()), name)


def _file(content: bytes, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(content, media_type=kind)


def _sides(shown: Shown) -> dict[str, str]:
    pair = shown.pair
    return {
        "id": pair.id,
        "instruction": pair.instruction,
        "input": pair.input,
        "left": pair.answer(shown.left),
        "right": pair.answer(shown.right),
    }


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(_HEADERS)
    return response


def _not_written(request: Request, error: Exception) -> Response:
    """The file of votes is full, locked or gone: the page keeps the vote and tries again."""
    words = f"The file of votes does not take it ({error})."
    return Refusal(503, "server_error", words, retry_after=2).response()
