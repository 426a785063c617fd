"""Generation: what the cache makes is what the model says, whatever stands beside it in the batch."""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.instructions import Conversation, Instruction, Message
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.sampling import Controls, choose, penalise
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.support.errors import UserError
from tests.models import SMALL as MODEL

PROMPTS = [[5, 9, 11], [700] * 40, [3], list(range(100, 117)), [2047, 12]]


@pytest.fixture(scope="module")
def definition():
    return define(MODEL)


@pytest.fixture(scope="module")
def parameters(definition):
    return definition.initialise(3)


@pytest.fixture(scope="module")
def generator(definition, parameters):
    return Generator.of(definition, parameters, load_tokenizer(TOKENIZER), TEMPLATES["alpaca"])


def controls(rows: int, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Controls:
    numbers = ((temperature, jnp.float32), (top_p, jnp.float32), (top_k, jnp.int32), (1.0, jnp.float32), (0, jnp.bool_))
    return Controls(*(jnp.full(rows, number, dtype) for number, dtype in numbers))


@functools.cache
def next_token():
    definition = define(MODEL)

    @jax.jit
    def next_token(parameters, tokens_L, last):
        model, row = definition.bind(parameters), tokens_L[None]
        hidden = model(row, jnp.arange(row.shape[1])[None], jnp.ones_like(row))
        return jnp.argmax(model.logits(hidden)[0, last])

    return next_token


def by_whole_passes(parameters, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation without a cache: the whole sequence again for each token."""
    tokens = list(prompt)
    for _ in range(count):
        padded = jnp.zeros(64, jnp.int32).at[: len(tokens)].set(jnp.array(tokens))
        tokens.append(int(next_token()(parameters, padded, len(tokens) - 1)))
    return tokens[len(prompt) :]


def test_greedy_equals_whole_passes_for_every_length_in_a_batch(definition, parameters, generator):
    made = generator.continuations(PROMPTS, Sampling(temperature=0.0, max_new_tokens=12))
    for prompt, tokens in zip(PROMPTS, made, strict=True):
        assert tokens == by_whole_passes(parameters, prompt, 12)[: len(tokens)]
        assert len(tokens) == 12 or by_whole_passes(parameters, prompt, 12)[len(tokens)] == 2


def test_a_mesh_changes_nothing(definition, parameters, generator):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    on_mesh = Generator.of(definition, parameters, load_tokenizer(TOKENIZER), TEMPLATES["alpaca"], mesh)
    assert on_mesh.continuations(PROMPTS, sampling) == generator.continuations(PROMPTS, sampling)


def test_other_weights_are_used_at_once_and_nothing_is_compiled_anew(definition, generator):
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    others = definition.initialise(4)
    before = generator.continuations(PROMPTS, sampling)
    sizes = lambda: [program._cache_size() for program in (generator.engine._admission, generator.engine._decode)]  # noqa: E731
    compiled = sizes()
    on_others = generator.on(others).continuations(PROMPTS, sampling)
    assert sizes() == compiled
    assert on_others[0] == by_whole_passes(others, PROMPTS[0], 12)[: len(on_others[0])]
    assert on_others != before == generator.continuations(PROMPTS, sampling)


def test_draws_depend_on_the_seed_and_the_prompts_number_alone(generator):
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=10, seed=4)
    together = generator.continuations(PROMPTS, sampling)
    assert together == generator.continuations(PROMPTS, sampling)
    for number, prompt in enumerate(PROMPTS):
        assert generator.continuations([prompt], sampling, first_index=number) == [together[number]]
    same_prompt = generator.continuations([[5, 9, 11]] * 3, sampling)
    assert len({tuple(tokens) for tokens in same_prompt}) == 3
    assert together != generator.continuations(PROMPTS, Sampling(1.0, 1.0, 10, seed=5))


@pytest.mark.parametrize("template", ["alpaca", "chatml"])
def test_it_ends_at_the_end_token_and_at_the_templates(definition, parameters, template):
    expected = by_whole_passes(parameters, PROMPTS[0], 3)

    class Ends:
        eos_id = expected[-1] if template == "alpaca" else 2
        special_ids: ClassVar = {"<|im_start|>": 3, "<|im_end|>": expected[-1]}
        piece = staticmethod(str)
        decode = staticmethod(lambda ids: " ".join(map(str, ids)))

    made = Generator.of(definition, parameters, Ends(), TEMPLATES[template]).continuations(
        PROMPTS[:1], Sampling(0.0, 1.0, 40)
    )
    assert made == [expected[: expected.index(expected[-1])]]


def test_records_are_put_into_the_template_and_answers_taken_out(definition, parameters):
    tokenizer, sampling = load_tokenizer(TOKENIZER), Sampling(0.0, 1.0, 8)
    generator = Generator.of(definition, parameters, tokenizer, TEMPLATES["llama2"])
    records = [Instruction("Add.", "1 and 2", "not seen"), Conversation((Message("user", " Add.\n\n1 and 2 "),))]
    ids = [1, *tokenizer.encode_prompt("[INST] Add.\n\n1 and 2 [/INST]")[1:]]
    raw = tokenizer.decode(generator.continuations([ids], sampling)[0])
    assert generator.answer([*records, "[INST] Add.\n\n1 and 2 [/INST]"], sampling) == [raw.strip(), raw.strip(), raw]


def test_the_context_bounds_what_is_made(generator):
    made = generator.continuations([[7] * 120], Sampling(0.0, 1.0, 600))
    assert len(made[0]) <= 8


@pytest.mark.parametrize("prompts", [[[]], [[1] * 128]])
def test_prompts_that_cannot_be_answered_are_refused(generator, prompts):
    with pytest.raises(UserError, match="prompt 1: expected 1 to 127 tokens"):
        generator.continuations(prompts, Sampling())


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    logits = jnp.log(jnp.array([[0.5, 0.1, 0.25, 0.15]]))
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = lambda top_p: np.asarray(choose(jnp.repeat(logits, 4000, 0), keys, controls(4000, top_p=top_p)))  # noqa: E731
    assert set(draw(0.4)) == {0}
    assert set(draw(0.75)) == {0, 2}
    assert set(draw(0.76)) == {0, 2, 3}
    shares = np.bincount(draw(1.0), minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.5, 0.1, 0.25, 0.15], atol=0.03)


def test_the_penalty_is_transformers():
    """Of a token that a row has, a positive score is divided and a negative one multiplied; each row by its own."""
    from transformers import RepetitionPenaltyLogitsProcessor

    random = np.random.default_rng(4)
    logits_BV = random.normal(size=(3, 50)).astype(np.float32)
    tokens_BL = random.integers(50, size=(3, 20))
    penalties_B = np.float32([1.7, 1.0, 0.6])
    seen_BV = np.zeros((3, 50), bool)
    np.put_along_axis(seen_BV, tokens_BL, True, axis=1)
    ours_BV = penalise(jnp.asarray(logits_BV), jnp.asarray(seen_BV), jnp.asarray(penalties_B))
    for row, penalty in enumerate(penalties_B):
        process = RepetitionPenaltyLogitsProcessor(float(penalty))
        theirs_1V = process(torch.tensor(tokens_BL[[row]]), torch.tensor(logits_BV[[row]]))
        np.testing.assert_allclose(ours_BV[row], theirs_1V[0], rtol=1e-6)


def test_temperature_sharpens():
    logits = jnp.log(jnp.array([[0.6, 0.4]]))
    keys = jax.random.split(jax.random.key(1), 4000)

    def share(temperature: float) -> float:
        return float(np.mean(np.asarray(choose(jnp.repeat(logits, 4000, 0), keys, controls(4000, temperature))) == 0))

    assert share(0.0) == 1.0
    assert share(0.5) == pytest.approx(0.36 / (0.36 + 0.16), abs=0.03)
    assert share(2.0) == pytest.approx(0.6**0.5 / (0.6**0.5 + 0.4**0.5), abs=0.03)


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"seed": -1}]
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        Sampling(**bad)
