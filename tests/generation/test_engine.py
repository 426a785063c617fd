"""Continuous batching: what an answer is depends on its prompt, its settings and its draw, and on nothing beside it."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.requests import Piece
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.watermark import Watermark, detect
from alpaca_jax.support.errors import UserError

GREEDY = Sampling(temperature=0.0, max_new_tokens=10, logprobs=3)
DRAWN = Sampling(temperature=1.3, top_p=0.95, max_new_tokens=10, seed=5, logprobs=2)
# The third outgrows the cache's first size on its way, and all others with it.
REQUESTS = [
    ([5, 9, 11], GREEDY),
    ([5, 9, 11], DRAWN),
    ([700] * 250, dataclasses.replace(DRAWN, max_new_tokens=20)),
    (list(range(100, 140)), dataclasses.replace(DRAWN, top_k=7, top_p=1.0)),
    ([2047, 12], dataclasses.replace(DRAWN, top_p=1.0)),
    ([3], dataclasses.replace(GREEDY, repetition_penalty=1.8)),
]


def run(engine: Engine, requests: list, late: int = 0) -> list[list[Piece]]:
    """All pieces of each request, the last `late` of which are handed in when the others are under way."""
    pieces: list[list[Piece]] = [[] for _ in requests]
    for number, (prompt, sampling) in enumerate(requests):
        if number == len(requests) - late:
            for _ in range(3):
                engine.step()
        engine.submit(prompt, sampling, pieces[number].append)
    while engine.step():
        pass
    assert engine.running == engine.waiting == 0
    assert all([piece.finish_reason for piece in of_one[:-1]] == [None] * (len(of_one) - 1) for of_one in pieces)
    assert all(of_one[-1].finish_reason for of_one in pieces)
    return pieces


def tokens_of(pieces: list[Piece]) -> list:
    return [token for piece in pieces for token in piece.tokens]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[list[Piece]]:
    return [run(engine, [request])[0] for request in REQUESTS]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 0, 5, 1, 4, 3)])
def test_an_answer_is_the_same_alone_and_among_any_others(engine, alone, order):
    """Tokens and their probabilities, bit for bit: in other slots, in another order, in a longer cache, come late."""
    together = run(engine, [REQUESTS[number] for number in order], late=2)
    for number, pieces in zip(order, together, strict=True):
        assert tokens_of(pieces) == tokens_of(alone[number])
        assert len(tokens_of(pieces)) == REQUESTS[number][1].max_new_tokens
    assert tokens_of(alone[0]) != tokens_of(alone[1])


def scores_of(definition, parameters, tokens: list[int]) -> np.ndarray:
    """Logarithms of the probabilities after each token, without a cache."""
    row = jnp.array([tokens])
    model = definition.bind(parameters)
    hidden = model(row, jnp.arange(len(tokens))[None], jnp.ones_like(row))
    return np.asarray(jax.nn.log_softmax(model.logits(hidden)[0]))


def test_told_probabilities_are_those_of_the_whole_pass(engine, definition, parameters, alone):
    prompt = REQUESTS[1][0]
    made = tokens_of(alone[1])
    scores = scores_of(definition, parameters, [*prompt, *(token.id for token in made)])
    for place, token in enumerate(made, start=len(prompt) - 1):
        np.testing.assert_allclose(token.logprob, scores[place, token.id], atol=2e-5)
        assert [other for other, _, _ in token.best] == np.argsort(-scores[place])[:2].tolist()
        np.testing.assert_allclose([best for _, _, best in token.best], np.sort(scores[place])[::-1][:2], atol=2e-5)


@pytest.mark.parametrize("new", [0, 2])
def test_probabilities_of_the_prompt(engine, definition, parameters, new):
    prompt = [5, 9, 11, 700, 2000]
    sampling = Sampling(temperature=0.0, max_new_tokens=new, logprobs=1, prompt_logprobs=True)
    (pieces,) = run(engine, [(prompt, sampling)])
    told = pieces[0].prompt
    assert [token.id for token in told] == prompt
    assert told[0].logprob is None
    scores = scores_of(definition, parameters, prompt)
    expected = [scores[place, id] for place, id in enumerate(prompt[1:])]
    np.testing.assert_allclose([token.logprob for token in told[1:]], expected, atol=2e-5)
    assert [token.best[0][0] for token in told[1:]] == scores[:-1].argmax(axis=1).tolist()
    assert len(tokens_of(pieces)) == new
    assert pieces[-1].finish_reason == "length"


def test_a_stop_string_ends_the_text_before_it_and_no_part_of_it_is_shown(engine, alone):
    whole, tokens = text_of(alone[1]), tokens_of(alone[1])
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    (pieces,) = run(engine, [([5, 9, 11], dataclasses.replace(DRAWN, stop=("never seen", stop)))])
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    kept = tokens_of(pieces)
    assert kept == tokens[: len(kept)]
    assert len(engine.tokenizer.decode([token.id for token in kept[:-1]])) < len(text_of(pieces))


def test_a_penalty_keeps_what_was_there_from_coming_again(engine):
    sampling = Sampling(temperature=0.0, max_new_tokens=30, repetition_penalty=100.0)
    (pieces,) = run(engine, [([5, 9, 11], sampling)])
    made = [token.id for token in tokens_of(pieces)]
    assert len({*made, 5, 9, 11}) == len(made) + 3


def test_a_cancelled_answer_ends_and_harms_no_other(engine, alone):
    pieces: list[list[Piece]] = [[] for _ in range(6)]
    long = dataclasses.replace(GREEDY, max_new_tokens=100)
    first = [engine.submit([7, number], long, pieces[number].append) for number in range(4)]
    waits = engine.submit([8], long, pieces[4].append)
    engine.submit(*REQUESTS[1], pieces[5].append)
    for _ in range(4):
        engine.step()
    assert (engine.running, engine.waiting) == (4, 2)
    thread = threading.Thread(target=lambda: [request.cancel() for request in (*first, waits)])
    thread.start()
    thread.join()
    engine.step()
    assert (engine.running, engine.waiting) == (1, 0)
    while engine.step():
        pass
    assert tokens_of(pieces[5]) == tokens_of(alone[1])
    for of_one in pieces[:5]:
        assert [piece.finish_reason for piece in of_one[-1:]] == ["cancelled"]
        assert len(tokens_of(of_one)) < 10


def test_the_watermark_is_in_every_answer_and_can_be_found(definition, parameters, engine):
    watermark = Watermark(bytes(range(32)), delta=8.0)
    marked = Engine(definition, parameters, engine.tokenizer, engine.template, slots=4, watermark=watermark)
    sampling = Sampling(temperature=0.7, top_p=1.0, max_new_tokens=80)
    for requests, found in (((marked), True), ((engine), False)):
        (pieces,) = run(requests, [([5, 9, 11], sampling)])
        assert detect([token.id for token in tokens_of(pieces)], watermark).detected is found


def test_prompts_are_text_and_never_control_tokens(engine):
    ids = engine.prompt_ids("</s><s>")
    assert engine.tokenizer.eos_id not in ids[1:]
    assert ids.count(engine.tokenizer.bos_id) <= 1


@pytest.mark.parametrize("prompt", [[], [1] * 512])
def test_prompts_that_cannot_be_answered_are_refused(engine, prompt):
    with pytest.raises(UserError, match="prompt: expected 1 to 511 tokens"):
        engine.submit(prompt, GREEDY, print)
