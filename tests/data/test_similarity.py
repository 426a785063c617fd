"""The index gives what comparing with every text gives, and the measure is rouge_score's to the last bit."""

import math
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from alpaca_jax.data.similarity import Similar, SimilarityIndex, tokenise

SCORER = RougeScorer(["rougeL"], use_stemmer=False)

# Few words, so that texts share many; what case, marks and foreign letters become is part of the measure.
TEXTS = st.lists(st.sampled_from("a b c d The the DON'T 9 café K ﬁ - ...".split()), max_size=14).map(" ".join)  # noqa: SIM905


def reference(a: str, b: str) -> float:
    return SCORER.score(a, b)["rougeL"].fmeasure


def rouge_l_f(a: str, b: str) -> float:
    index = SimilarityIndex()
    index.add(a)
    return float(index.compare(b)[0])


@settings(deadline=None)
@given(TEXTS | st.text(max_size=40), TEXTS)
def test_the_measure_is_that_of_rouge_score(a: str, b: str):
    assert rouge_l_f(a, b) == reference(a, b) == rouge_l_f(b, a)


@settings(deadline=None)
@given(
    st.lists(TEXTS, max_size=25),
    TEXTS,
    st.sampled_from([0.0, 0.3, 0.5, 2 / 3, 0.7, 0.8, 0.9, 1.0]) | st.floats(0, 1),
    st.booleans(),
    st.integers(1, 10),
)
def test_the_index_finds_what_comparing_with_each_finds(
    pool: list[str], text: str, threshold: float, at_the_best: bool, count: int
):
    index = SimilarityIndex()
    for number, member in enumerate(pool):
        assert index.add(member) == number
    scores = [Similar(number, reference(member, text)) for number, member in enumerate(pool)]
    if at_the_best and max((score.f for score in scores), default=0) > 0:
        threshold = math.nextafter(max(score.f for score in scores), 0)
    above = sorted((score for score in scores if score.f > threshold), key=lambda score: (-score.f, score.number))
    assert index.nearest(text, threshold, count) == above[:count]


def test_the_threshold_itself_is_not_above_it():
    index = SimilarityIndex()
    index.add("a b c d e f g x y z")
    assert reference("a b c d e f g x y z", "a b c d e f g 1 2 3") == 0.7
    assert index.nearest("a b c d e f g 1 2 3", 0.7) == []
    assert index.nearest("a b c d e f g x 2 3", 0.7) == [Similar(0, 0.8000000000000002)]


def test_words_are_runs_of_letters_and_digits():
    assert tokenise("Don't STOP:\n9-to-5, Ünder_score") == ["don", "t", "stop", "9", "to", "5", "nder", "score"]


def test_thousands_of_instructions_take_seconds():
    generator = random.Random(0)
    # As frequent as words are: a few everywhere, most of them rare.
    words = generator.choices(range(20_000), [1 / (rank + 5) for rank in range(20_000)], k=50_000)
    texts = [" ".join(map(str, generator.choices(words, k=generator.randint(5, 20)))) for _ in range(5_000)]
    index, found, start = SimilarityIndex(), 0, time.process_time()
    for text in [*texts, *(f"{text} please" for text in texts[::10])]:
        found += bool(index.nearest(text, 0.7))
        index.add(text)
    assert found >= 500
    assert time.process_time() - start < 10  # about one second; comparing with each takes minutes in Python
