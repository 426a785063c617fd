"""A chat in the terminal."""

import dataclasses

import pytest

from alpaca_jax.data.instructions import Conversation, Message
from alpaca_jax.generation.chat import Chat, converse
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.settings import Sampling

GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


def test_each_answer_sees_all_turns_before_it(engine):
    shown: list[str] = []
    chat = Chat(engine, GREEDY, shown.append)
    first, second = chat.say("Hi."), chat.say("And then?")
    turns = (Message("user", "Hi."), Message("assistant", first), Message("user", "And then?"))
    expected = Generator(engine).answer([Conversation(turns[:1]), Conversation(turns)], GREEDY)
    assert [first, second] == expected
    assert "".join(shown) == "".join(f"{text.lstrip()}\n" for text in expected)
    assert len(shown) > 8


def test_ctrl_c_ends_an_answer_and_then_the_chat(engine):
    shown: list[str] = []
    said = iter(["Hi.", "", "Go on."])

    def read() -> str:
        for line in said:
            return line
        raise KeyboardInterrupt

    def write(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    converse(engine, dataclasses.replace(GREEDY, max_new_tokens=100), read, write)
    first = shown.index("\n", 3)
    assert first < 20
    assert engine.running == engine.waiting == 0
    assert len(shown) > first + 50


def test_the_oldest_turns_go_when_the_context_is_full(engine):
    shown: list[str] = []
    chat = Chat(engine, GREEDY, shown.append)
    for _ in range(6):
        chat.say("Say it once more. " * 20)
    assert any("outgrown" in text for text in shown)


@pytest.mark.parametrize("said", ["word " * 2000])
def test_one_message_that_is_too_long_is_refused_and_the_chat_goes_on(engine, said):
    shown: list[str] = []
    lines = iter(["Hi.", said, "Hi."])

    def read() -> str:
        for line in lines:
            return line
        raise EOFError

    converse(engine, GREEDY, read, shown.append)
    (refused,) = [place for place, text in enumerate(shown) if text.startswith("message: expected 1 to 511 tokens")]
    assert len(shown) > refused + 8
    assert not any("outgrown" in text for text in shown), "nothing was left out"
