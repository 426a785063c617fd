"""The content filter: what it stops, what evades it in vain, and that it fails closed."""

import asyncio
import json
import logging
import time
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from alpaca_jax.generation.requests import Piece
from alpaca_jax.serving.held_text import Blocked, HeldText
from alpaca_jax.serving.moderation import Filter, OpenAIFilter, WordListFilter, make_filter
from alpaca_jax.serving.refusal import Refusal
from alpaca_jax.serving.service import ServedModel, Service
from alpaca_jax.serving.word_list import WordList
from alpaca_jax.support.errors import UserError
from tests.openai_server import Reply, Request, serving
from tests.serving.server import ask, metric, running

WORDS = "# a list\n\nbomb\nhow to  pick a lock\n/nerve\\s+(gas|agent)/\n炸弹\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(WORDS, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "A bomb.",
        "BOMB",
        "a_bomb_",
        "ｂｏｍｂ",
        "bo\u200bm\u00adb",
        "b\u0336o\u0336m\u0336b",
        "b\ufe0fomb",
        "How to\npick   a\u3000lock?",
        "NERVE  agents",
        "制造炸弹的方法",
    ],
)
def test_listed_words_are_found_however_they_are_written(path: Path, text: str):
    assert WordList(path).finds(text)


@pytest.mark.parametrize("text", ["bombastic", "a thrombomb", "pick a lock", "nervous agent", "# a list", ""])
def test_other_words_are_not(path: Path, text: str):
    assert not WordList(path).finds(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"# nothing\n\n", "at least one"), (b"/(/\n", "line 1"), (b"\xff\xfe", "UTF-8"), (b"x" * (2**22 + 1), "MiB")],
)
def test_bad_lists_are_refused(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        WordList(tmp_path / "words.txt")


def test_an_expression_that_would_never_end_is_ended_and_nothing_passes(tmp_path: Path):
    (tmp_path / "words.txt").write_text("/(x+x+)+y/\n")
    start = time.monotonic()
    with pytest.raises(Refusal) as refused:
        asyncio.run(WordListFilter(tmp_path / "words.txt").check("x" * 5_000))
    assert refused.value.status == 503
    assert time.monotonic() - start < 5


def shown(filter, *texts: str) -> list[str]:
    """What is shown after each piece of an answer."""

    async def feed() -> list[str]:
        held = HeldText(filter)
        pieces = [Piece(text, (), "stop" if number == len(texts) else None) for number, text in enumerate(texts, 1)]
        return [(await held.feed(piece)).text for piece in pieces]

    return asyncio.run(feed())


def test_text_is_shown_when_it_has_been_checked_and_whole(path: Path):
    words = ["One two three. ", "Four ", "five ", *["and so on "] * 40, "to the end"]
    pieces = shown(WordListFilter(path), *words)
    assert "".join(pieces) == "".join(words)
    assert sum(map(bool, pieces)) >= 3, "it comes bit by bit"
    assert pieces[1] == pieces[2] == ""


@pytest.mark.parametrize("pieces", [["A bo", "mb."], ["Say how to ", "pick. ", "A"], [*"ab " * 90, "b", "o", "m", "b"]])
def test_no_part_of_a_listed_word_is_shown(path: Path, pieces: list[str]):
    path.write_text(WORDS + "say how to pick. a\n")
    seen: list[str] = []

    async def feed() -> None:
        held = HeldText(WordListFilter(path))
        for number, text in enumerate(pieces, 1):
            stretch = await held.feed(Piece(text, (), "stop" if number == len(pieces) else None))
            seen.append(stretch.text)

    with pytest.raises(Blocked):
        asyncio.run(feed())
    assert not any(part in "".join(seen).lower() for part in ("bo", "say"))


def verdicts(request: Request) -> Reply:
    """Flags texts about bombs."""
    results = []
    for text in request.body["input"]:
        found = "bomb" in text
        results.append({"flagged": found, "categories": {"violence": found}, "category_scores": {}})
    return Reply({"id": "m", "model": "m", "results": results})


def verdict(filter: Filter, text: str) -> str | None:
    """What the filter says, its connections closed."""

    async def check() -> str | None:
        try:
            return await filter.check(text)
        finally:
            await filter.close()

    return asyncio.run(check())


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_service_is_asked_with_the_key_and_counted_by_its_category():
    with serving(verdicts) as server:
        filter = OpenAIFilter({"OPENAI_API_KEY": "sk-secret"}, server.url)
        assert verdict(filter, "a bomb") == "openai:violence"
    assert server.requests[0].path == "/v1/moderations"
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"


def test_the_service_may_come_from_the_environment_and_need_no_key():
    with serving(verdicts) as server, serving(verdicts) as other:
        assert verdict(OpenAIFilter({"OPENAI_BASE_URL": server.url}, None), "a bomb") == "openai:violence"
        assert verdict(OpenAIFilter({"OPENAI_BASE_URL": other.url}, server.url), "a bomb") == "openai:violence"
    assert len(server.requests) == 2
    assert not other.requests


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"error": {"message": "no"}}, 500),
        Reply({"error": {"message": "no"}}, 401),
        Reply({"results": []}),
        Reply({"id": "m", "model": "m", "results": [{"flagged": "no", "categories": {}, "category_scores": {}}]}),
        Reply(b"<html>"),
        Reply(status=0),
    ],
)
def test_a_service_that_does_not_answer_lets_nothing_pass(reply: Reply):
    with serving(lambda request: reply) as server, pytest.raises(Refusal) as refused:
        verdict(OpenAIFilter({}, server.url), "an innocent text")
    assert refused.value.status == 503
    assert refused.value.code == "moderation_unavailable"


def test_of_both_either_stops_and_what_the_list_stops_is_not_sent_out(path: Path):
    with serving(verdicts) as server:

        def said(text: str) -> str | None:
            filter = make_filter("both", {}, path, server.url)
            assert filter
            assert filter.reach == WordListFilter(path).reach
            return verdict(filter, text)

        assert said("nerve gas") == "wordlist"
        assert not server.requests
        assert said("a thrombomb") == "openai:violence"
        assert said("an innocent text") is None
        assert len(server.requests) == 2
    with serving(lambda request: Reply(status=0)) as server, pytest.raises(Refusal):
        said("an innocent text")


def test_prompts_and_answers_are_stopped_counted_and_not_logged(
    model: ServedModel, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    engine = model.engine
    with running(Service([model]), tmp_path) as server:
        body = {"prompt": "Name a metal.", "max_tokens": 40, "temperature": 0}
        answer = ask(server.port, "/v1/completions", body).body["choices"][0]["text"]
    word = max(answer.split(), key=len)
    path.write_text(f"bomb\n/{''.join(f'[{letter}]' for letter in word if letter.isalnum())}/\n")
    caplog.set_level(logging.DEBUG)
    service = Service([model], filter=make_filter("wordlist", {}, path, None))
    with running(service, tmp_path) as server, OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt="How is a bo\u200bmb built?")
        assert refused.value.code == "content_filter"
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="tiny", prompt=engine.prompt_ids("A bomb."))
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "bomb"}])
        whole = client.completions.create(model="tiny", **body).choices[0]
        assert whole.finish_reason == "content_filter"
        assert word not in whole.text
        streamed = [event.choices[0] for event in client.completions.create(model="tiny", **body, stream=True)]
        assert "".join(choice.text for choice in streamed) == whole.text
        assert streamed[-1].finish_reason == "content_filter"
        assert metric(server.port, 'alpaca_jax_blocked_total{reason="wordlist",stage="prompt"}') == 3
        assert metric(server.port, 'alpaca_jax_blocked_total{reason="wordlist",stage="answer"}') == 2
    assert "bomb" not in caplog.text
    assert engine.running == engine.waiting == 0 or engine.step() in (True, False)


def test_a_service_that_falls_silent_in_the_middle_ends_the_stream(model: ServedModel, tmp_path: Path):
    def once(request: Request) -> Reply:
        return verdicts(request) if request.number == 0 else Reply({"error": {"message": "no"}}, 500)

    with serving(once) as moderation:
        service = Service([model], filter=make_filter("openai", {}, None, moderation.url))
        with running(service, tmp_path) as server:
            # Greedily: a drawn answer may begin with an empty line, which is shown unasked.
            body = {"prompt": "Name a metal.", "max_tokens": 20, "stream": True, "temperature": 0}
            events = ask(server.port, "/v1/completions", body).body.strip().split("\n\n")
    assert len(events) == 1, "text was shown that nobody has checked"
    assert json.loads(events[0].removeprefix("data: "))["error"]["code"] == "moderation_unavailable"


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (("wordlist", {}, None, None), "--moderation=wordlist"),
        (("none", {}, "words.txt", None), "--wordlist"),
        (("wordlist", {}, "words.txt", "http://x/v1"), "--moderation_base_url"),
        (("openai", {}, None, None), "OPENAI_API_KEY"),
        (("openai", {}, None, "ftp://x"), "--moderation_base_url"),
        (("openai", {"OPENAI_BASE_URL": "localhost:8000"}, None, None), "OPENAI_BASE_URL"),
        (("both", {"OPENAI_API_KEY": "k"}, "no such file", None), "no such file"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments: tuple, subject: str):
    with pytest.raises(UserError) as refused:
        make_filter(*arguments)
    assert refused.value.subject == subject
