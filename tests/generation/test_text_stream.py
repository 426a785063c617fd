"""Text that is shown as it comes: never half a character, never a part of a stop string, and nothing lost."""

import random

import pytest

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.text_stream import TextStream, TokenChoice

TEXTS = [
    "  Nairobi is the capital of Kenya.\n\n- 1\n- 2\n",
    "naïve 😀 かな 漢字 👩‍👩‍👧 ok",  # characters of several tokens each
    "😀" * 40 + " and on " * 20,
    "\ufffd is a character too \ufffd",
]


def stream(ids, decode, stop=()):
    text_stream, pieces, tokens = TextStream(decode, stop), [], []
    for id in ids:
        released = text_stream.push(TokenChoice(id, "?"))
        pieces.append(released.text)
        tokens += released.tokens
        if released.stopped:
            return pieces, tokens
    released = text_stream.finish()
    return [*pieces, released.text], [*tokens, *released.tokens]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_joined_are_the_text(text):
    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer.encode_response(text)
    pieces, tokens = stream(ids, tokenizer.decode)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert [token.id for token in tokens] == ids
    assert sum(piece != "" for piece in pieces) > len(text) / 12
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_come_at_the_end():
    pieces, tokens = stream(b"ab\xf0\x9f", lambda ids: bytes(ids).decode(errors="replace"))
    assert pieces == ["a", "b", "", "", "\ufffd"]
    assert len(tokens) == 4


def test_stop_strings_of_any_length_across_any_tokens():
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choices("abc", k=30))
        cuts = sorted(generator.sample(range(1, 30), 9))
        words = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
        stops = tuple("".join(generator.choices("abc", k=generator.randint(2, 5))) for _ in range(2))
        places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
        end = min(places, default=30)
        pieces, tokens = stream(range(len(words)), lambda ids: "".join(words[id] for id in ids), stops)  # noqa: B023
        assert "".join(pieces) == text[:end]
        assert "".join(words[token.id] for token in tokens[:-1]) == text[: sum(len(words[t.id]) for t in tokens[:-1])]
        assert sum(len(words[token.id]) for token in tokens[:-1]) < max(end, 1)
        assert sum(len(words[token.id]) for token in tokens) >= end
