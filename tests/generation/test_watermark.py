"""The watermark: the device and the detector agree bit for bit, and chance is what the statistics say it is."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.watermark import Detection, Watermark, bias, detect, distinct_ngrams, green, threefry_2x32
from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.support.errors import UserError

KEY = bytes(range(32))
ENDS = {2, 77}


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # the known answers that come with Random123, the authors' own code
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, expected):
    assert [int(word[0]) for word in threefry_2x32(*map(words, (*key, *counter)))] == list(expected)


def green_sets(contexts: np.ndarray, vocab_size: int, watermark: Watermark) -> np.ndarray:
    """What `detect` takes as green after each context, [B, V]."""
    ids = np.arange(vocab_size, dtype=np.uint32)[:, None]
    ngrams = [np.hstack([np.tile(context, (vocab_size, 1)), ids]) for context in contexts.astype(np.uint32)]
    return np.stack([green(each, watermark) for each in ngrams])


def biased(logits_BV: np.ndarray, recent_BR: object, watermark: Watermark, ends: set[int]) -> np.ndarray:
    """What the compiled step makes of scores."""
    compiled = jax.jit(lambda logits, recent: bias(logits, recent, watermark, ends))
    return np.asarray(compiled(logits_BV, jnp.array(recent_BR)))


@pytest.mark.parametrize("context_width", [1, 3])
def test_the_device_favours_what_the_detector_counts(context_width):
    watermark = Watermark(KEY, gamma=0.4, delta=1.5, context_width=context_width)
    numbers = np.random.default_rng(0)
    recent_BW = numbers.integers(0, 2000, (6, context_width)).astype(np.int32)
    recent_BW[5, 0] = -1  # not enough tokens yet
    logits_BV = numbers.normal(size=(6, 2048)).astype(np.float32)
    logits_BV[:, 2000:] = -np.inf  # ids that pad the vocabulary
    biased_BV = biased(logits_BV, recent_BW, watermark, ENDS)
    expected_BV = green_sets(recent_BW, 2048, watermark)
    added_BV = np.where(expected_BV, np.float32(1.5), np.float32(0))
    added_BV[:, [2, 77]] = np.float32(0.4 * 1.5)
    added_BV[5] = 0
    np.testing.assert_array_equal(biased_BV, logits_BV + added_BV)
    assert (biased_BV[:, 2000:] == -np.inf).all()
    # The same ids are green where the vocabulary is not padded.
    np.testing.assert_array_equal(biased(logits_BV[:, :2000], recent_BW, watermark, ENDS), biased_BV[:, :2000])


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_each_context_and_each_key_has_its_own_green_share(gamma):
    watermark = Watermark(KEY, gamma, context_width=1)
    contexts = np.arange(40, dtype=np.uint32)[:, None]
    sets = green_sets(contexts, 10_000, watermark)
    deviation = math.sqrt(gamma * (1 - gamma) / sets.size)
    assert abs(sets.mean() - gamma) < 4 * deviation
    by_context = (sets.mean(axis=1) - gamma) / math.sqrt(gamma * (1 - gamma) / 10_000)
    assert 0.5 < by_context.std() < 1.6
    # Two sets have γ² in common where neither says anything about the other.
    other_key = green_sets(contexts, 10_000, Watermark(KEY[::-1], gamma, context_width=1))
    for other in (np.roll(sets, 1, axis=0), np.roll(sets, 1, axis=1), other_key):
        assert abs((sets & other).mean() - gamma**2) < 5 * deviation


def test_every_token_of_the_context_and_their_order_count():
    contexts = np.array([[1, 2, 3], [1, 2, 4], [1, 5, 3], [6, 2, 3], [3, 2, 1]])
    sets = green_sets(contexts, 4096, Watermark(KEY, context_width=3))
    for first, second in itertools.combinations(sets, 2):
        assert 0.2 < (first & second).mean() / 0.25 < 0.3


def test_a_token_that_would_repeat_an_ngram_is_not_favoured():
    watermark = Watermark(KEY, gamma=0.5, delta=2.0, context_width=2)
    (favoured_V,) = green_sets(np.array([[7, 8]]), 2048, watermark)
    first, second, third = np.flatnonzero(favoured_V)[[3, 9, 20]].tolist()
    row = [8, 7, third, 7, 8, first, 8, 7, 7, 8, second, 8, third]  # `third` came, but not after 7 8
    recent = [[-1, -1, *row, 7, 8], [-1] * len(row) + [-1, -1, 7, 8]]
    added_BV = biased(np.zeros((2, 2048), np.float32), recent, watermark, set())
    assert added_BV[0, [first, second, third]].tolist() == [0, 0, 2]
    favoured_V[[first, second]] = False
    np.testing.assert_array_equal(added_BV[0] > 0, favoured_V)
    assert added_BV[1, [first, second, third]].tolist() == [2, 2, 2]


def test_the_order_among_the_green_and_among_the_others_stays():
    logits_1V = np.random.default_rng(1).normal(size=(1, 2048)).astype(np.float32)
    watermark = Watermark(KEY, delta=2.0, context_width=1)
    (biased_V,) = biased(logits_1V, [[7]], watermark, set())
    (is_green_V,) = green_sets(np.array([[7]]), 2048, watermark)
    for kind_V in (is_green_V, ~is_green_V):
        np.testing.assert_array_equal(np.argsort(biased_V[kind_V]), np.argsort(logits_1V[0, kind_V]))
    assert 0.2 < is_green_V.mean() < 0.3


def test_z_and_p_by_hand():
    found = Detection.of(28, 54, 0.25)
    assert found.z == pytest.approx((28 - 13.5) / math.sqrt(54 * 0.25 * 0.75))
    assert found.p == pytest.approx(2.594e-06, rel=1e-3)  # of a table: Φ(−4.557)
    chances = [math.comb(54, count) * 0.25**count * 0.75 ** (54 - count) for count in range(28, 55)]
    assert found.p_exact == pytest.approx(sum(chances))
    assert found[3:] == (54, 28, True)
    assert Detection.of(0, 0, 0.25) == (0.0, 0.5, 1.0, 0, 0, False)
    assert Detection.of(0, 100, 0.5).z == -10


@pytest.mark.parametrize(
    ("counts", "detected"),
    [
        ((6, 6), False),  # z 4.24, and yet one of 4,096 unmarked texts
        ((8, 10), False),  # z 4.02, one of 2,405
        ((8, 8), True),  # z 4.90, one of 65,536
        ((74, 200), False),  # z 3.92
        ((75, 200), True),  # z 4.08
    ],
)
def test_a_short_text_needs_more_than_z_above_four(counts, detected):
    assert Detection.of(*counts, 0.25).detected == detected


def test_repeated_ngrams_count_once():
    assert distinct_ngrams([1, 2, 1, 2, 1, 2, 3], 1).tolist() == [[1, 2], [2, 1], [2, 3]]
    assert distinct_ngrams([1, 2, 1, 2, 1, 2, 3], 2).tolist() == [[1, 2, 1], [1, 2, 3], [2, 1, 2]]
    assert distinct_ngrams([1, 2], 2).shape == (0, 3)
    watermark = Watermark(KEY, context_width=1)
    once = detect([5, 6, 7, 8], watermark)
    assert once.tokens == 3
    assert detect([5, 6, 7, 8] * 300, watermark).tokens == 4  # and 8 5
    assert detect([], watermark).tokens == 0


def test_unmarked_texts_are_taken_for_marked_ones_no_oftener_than_promised():
    tokenizer = load_tokenizer(TOKENIZER)
    answers = [located.record.output for located in read_records(SEED_TASKS)]
    texts = [distinct_ngrams(tokenizer.encode_response(answer), 1) for answer in answers]
    texts = [ngrams for ngrams in texts if len(ngrams) >= 5]
    lengths, all_ngrams = np.array([len(ngrams) for ngrams in texts]), np.concatenate(texts)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    found, z = 0, []
    for number in range(1200):
        counts = np.add.reduceat(green(all_ngrams, Watermark(number.to_bytes(16), context_width=1)), starts, dtype=int)
        z.append((counts - 0.25 * lengths) / np.sqrt(lengths * 0.25 * 0.75))
        likely = [Detection.of(int(counts[text]), int(lengths[text]), 0.25) for text in np.flatnonzero(z[-1] > 4)]
        found += sum(detection.detected for detection in likely)
    z = np.array(z)
    # Green tokens of distinct n-grams are independent draws: z of unmarked texts has the mean 0 and the variance 1.
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert abs(z.var() - 1) < 0.03
    # As often as promised, or less; a count of more than twice that many would come by chance in one of 1,000.
    assert z.size > 150_000
    assert found <= 1e-4 * z.size + 3.1 * math.sqrt(1e-4 * z.size)


@pytest.mark.parametrize(
    "bad", [{"gamma": 0.0}, {"gamma": 1.0}, {"delta": 0.0}, {"delta": float("nan")}, {"context_width": 0}]
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        Watermark(KEY, **bad)


def test_the_key_is_long_enough_and_is_never_shown():
    with pytest.raises(UserError, match="at least 16 secret bytes"):
        Watermark(b"short")
    assert "key" not in repr(Watermark(KEY))


@pytest.fixture(scope="module")
def marked(definition: Definition, parameters: Parameters) -> Generator:
    """A model without knowledge, whose answers are marked."""
    watermark = Watermark(KEY, gamma=0.25, delta=2.0, context_width=2)
    tokenizer, template = load_tokenizer(TOKENIZER), TEMPLATES["alpaca"]
    return Generator(Engine(definition, parameters, tokenizer, template, slots=3, watermark=watermark))


def test_answers_of_the_engine_are_found_with_their_key_alone(marked: Generator):
    prompts = [[5, 9, 11], [700] * 25, [3], [2047, 12]]
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=90)
    answers = marked.continuations(prompts, sampling)
    watermark, other = Watermark(KEY, context_width=2), Watermark(KEY[::-1], context_width=2)
    for prompt, answer in zip(prompts, answers, strict=True):
        # The prompt is a context too: its last tokens decide what is green first.
        green_N = green(np.lib.stride_tricks.sliding_window_view(words(*prompt[-2:], *answer), 3), watermark)
        assert len(green_N) > 60
        assert green_N.mean() > 0.5
        assert detect(answer, watermark).detected
        assert not detect(answer, other).detected
    # In fewer slots than prompts, and alone: what stands beside an answer changes nothing.
    assert marked.continuations(prompts[:1], sampling) == answers[:1]
    assert marked.continuations(prompts[2:3], sampling, first_index=2) == answers[2:3]


def test_a_strong_watermark_leaves_greedy_answers_green(marked: Generator):
    prompt = [5, 9, 11]
    (answer,) = marked.continuations([prompt], Sampling(temperature=0.0, max_new_tokens=40))
    found = detect(answer, Watermark(KEY, context_width=2))
    assert found.green > 0.9 * found.tokens
