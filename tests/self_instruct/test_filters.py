"""The rules of Alpaca one by one, and decisions on near-duplicates as rouge_score makes them."""

import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.similarity import SimilarityIndex, tokenise_any
from alpaca_jax.self_instruct.filters import Pool, unfit

SCORER = RougeScorer(["rougeL"], use_stemmer=False)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Name three rivers", "too_short"),
        ("Name three long rivers", None),
        (" ".join(["word"] * 150), None),
        (" ".join(["word"] * 151), "too_long"),
        ("Describe the Picture to me", "beyond_text"),
        ("Tell me where to go to", "beyond_text"),
        ("Describe a profile, mapping and musical drawing", None),
        ("Write a program that counts", "asks_for_program"),
        ("Please write a program that counts", None),
        ("(a) name three rivers", "punctuation_first"),
        ("Élan is which language?", "not_ascii_first"),
        ("Élan", "too_short"),
        ("2 plus 2 makes what?", None),
    ],
)
def test_each_rule(instruction: str, reason: str | None):
    assert unfit(instruction, english=True) == reason


def test_the_rules_in_other_languages():
    assert unfit("Écris un poème sur la mer", english=False) is None
    assert unfit("请写一首关于大海的诗", english=False) is None
    assert unfit("写诗", english=False) == "too_short"
    assert unfit("Zeig das file im Programm", english=False) is None
    pool = Pool([("a", "请写一首关于大海的诗歌")], 0.7, english=False)
    assert pool.is_near("请写一首关于大海的诗")
    assert not pool.is_near("请写一封给老师的信件")
    assert not Pool([("a", "请写一首关于大海的诗歌")], 0.7, english=True).is_near("请写一首关于大海的诗")
    assert tokenise_any("Snake_case Καλημέρα") == ["snake", "case", "καλημέρα"]


def test_decisions_and_likeness_are_those_of_comparing_with_each_by_rouge_score():
    generator = random.Random(0)
    words = ["the", "a", "of", "Name", "list", "Which", "river", "city", "don't", "2008", "é", "…", *map(str, range(9))]
    seeds = [" ".join(generator.choices(words, k=generator.randint(0, 12))) for _ in range(40)]
    pool, kept = Pool([(f"seed {number}", text) for number, text in enumerate(seeds)], 0.7, english=True), [*seeds]
    near = 0
    for number in range(160):
        text = " ".join(generator.choices(words, k=generator.randint(1, 12)))
        if number % 2:
            edited = generator.choice(kept).split() or ["a"]
            edited[generator.randrange(len(edited))] = generator.choice(words)
            text = " ".join(edited)
        scores = np.array([SCORER.score(other, text)["rougeL"].fmeasure for other in kept])
        assert pool.is_near(text) == bool((scores > 0.7).any())
        likeness = pool.likeness(text, len(kept) - 5)
        assert likeness["similarity"] == round(scores[:-5].max(), 6)
        assert likeness["mean_similarity"] == pytest.approx(scores[:-5].mean(), abs=1e-6)
        ten = sorted(range(len(kept) - 5), key=lambda other: (-scores[other], other))[:10]
        assert [float(f) for f in likeness["most_similar"].values()] == [round(scores[k], 6) for k in ten if scores[k]]
        near += pool.is_near(text)
        if not pool.is_near(text):
            pool.add(f"kept {number}", text)
            kept.append(text)
    assert 20 < near < 140


def test_the_threshold_is_exact():
    pool = Pool([("a", "a b c d e f g x y z")], 0.7, english=True)
    assert not pool.is_near("a b c d e f g 1 2 3")  # 0.7 itself
    assert pool.is_near("a b c d e f g 1 2")  # 14/19
    assert Pool([("a", "a b c d e f g")], 0.7, english=True).is_near("a b c d e 1 2")  # 5/7


def test_the_index_compares_with_texts_without_words():
    index = SimilarityIndex()
    assert index.compare("a").shape == (0,)
    for text in ("", "a b", "…"):
        index.add(text)
    assert index.compare("a").tolist() == [0, 2 / 3, 0]
    assert index.compare("!").tolist() == [0, 0, 0]


def test_the_embedded_seeds_are_unlike_each_other():
    texts = list(dict.fromkeys(located.record.identity()[0] for located in read_records(SEED_TASKS)))
    pool = Pool([], 0.7, english=True)
    for text in texts:
        assert not pool.is_near(text), text
        pool.add(text, text)
