"""The figures, against what other formulas and published examples give."""

import math
import random

import numpy as np
import pytest

from alpaca_jax.evaluation.comparisons import Comparison, Unit, Verdict, Vote
from alpaca_jax.evaluation.ranking import rank
from alpaca_jax.evaluation.statistics import agreement, by_length, length_controlled, position_bias, rates
from alpaca_jax.support.errors import UserError


def unit(number: int, ours: int = 100, theirs: int = 100) -> Unit:
    return Unit(f"u{number}", f"question {number}", "", ours, theirs)


def votes(*scores: float | None) -> list[Vote]:
    return [Vote(unit(number), "x", score) for number, score in enumerate(scores)]


def test_ninety_against_eighty_nine():
    found = rates(votes(*[1.0] * 90, *[0.0] * 89))
    assert (found["wins"], found["losses"], found["ties"], found["votes"]) == (90, 89, 0, 179)
    assert found["win_rate"] == pytest.approx(100 * 90 / 179)
    # Wilson (1927), written out.
    n, p, z = 179, 90 / 179, 1.959964
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert found["ci95"] == pytest.approx([100 * (middle - half), 100 * (middle + half)], abs=1e-5)
    assert [round(end, 1) for end in found["ci95"]] == [43.0, 57.5]
    assert found["p_value"] == pytest.approx(1)
    assert found["standard_error"] == pytest.approx(100 * np.std([1] * 90 + [0] * 89, ddof=1) / math.sqrt(179))


def test_ties_count_half_and_what_has_no_verdict_is_counted_but_not_in_the_rate():
    found = rates(votes(1, 1, 1, 0, 0.5, 0.5, None, None, 0.8))
    assert [found[name] for name in ("wins", "losses", "ties", "null", "votes")] == [4, 1, 2, 2, 7]
    assert found["win_rate"] == pytest.approx(100 * 4.8 / 7)
    assert found["p_value"] == pytest.approx(2 * (1 + 5) / 2**5)  # 4 of 5 or more, on both sides
    unsure = [Vote(unit(n), name, score) for n in range(6) for name, score in (("x", 0.9), ("y", 0.4))]
    assert rates(unsure)["p_value"] == pytest.approx(2 / 2**6)  # each unit is won, by a mean of 0.65
    assert rates(votes(None))["win_rate"] is None
    assert rates(votes(1))["standard_error"] is None


def test_several_votes_on_a_pair_are_no_more_certain_than_one_where_annotators_always_agree():
    generator = random.Random(1)
    scores = [generator.choice([0.0, 0.5, 1.0]) for _ in range(60)]
    alone = rates(votes(*scores))
    thrice = rates([Vote(unit(n), name, score) for n, score in enumerate(scores) for name in "xyz"])
    assert (thrice["votes"], thrice["units"]) == (180, 60)
    for figure in ("win_rate", "standard_error", "ci95", "p_value"):
        assert thrice[figure] == pytest.approx(alone[figure])


def test_length_is_taken_out():
    """Votes drawn from the very model, with a preference for the longer answer."""
    generator = np.random.default_rng(0)
    lengths = generator.normal(80, 100, 20_000).round().astype(int)
    theta, phi = 0.4, 1.5
    chance = 1 / (1 + np.exp(-(theta + phi * np.tanh(lengths / lengths.std()))))
    scores = (generator.random(20_000) < chance).astype(float)
    ballots = [
        Vote(unit(n, 500 + d, 500), "x", s) for n, (d, s) in enumerate(zip(lengths.tolist(), scores, strict=True))
    ]
    found = length_controlled(ballots)
    true = 100 / (1 + math.exp(-theta))
    assert found["win_rate"] == pytest.approx(true, abs=1.5)
    assert found["ci95"][0] < true < found["ci95"][1]
    assert found["length_effect"] == pytest.approx(phi, abs=0.1)
    assert rates(ballots)["win_rate"] > true + 8  # the raw rate is what length made of it


@pytest.mark.parametrize(
    ("ballots", "reason"),
    [
        (votes(1, 0, 1), "fewer than 10"),
        (votes(*[1, 0] * 10), "all differences"),
        ([Vote(unit(n, 100 + n), "x", float(n > 10)) for n in range(20)], "length alone"),
        ([Vote(unit(n, 100 + n), "x", 0.5) for n in range(20)], "all votes are the same"),
        ([Vote(unit(n, 100 + n), "x", 1.0) for n in range(20)], "all votes are the same"),
    ],
)
def test_where_length_cannot_be_taken_out_a_reason_stands(ballots: list[Vote], reason: str):
    found = length_controlled(ballots)
    assert found["win_rate"] is None
    assert reason in found["reason"]


def test_agreement_of_two_annotators_as_by_the_definition():
    one, other = [1, 1, 0, 0, 0.5, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0.5, 1, 1, 1, 0.5, 0]
    ballots = [
        Vote(unit(n), name, score) for name, scores in (("x", one), ("y", other)) for n, score in enumerate(scores)
    ]
    ballots.append(Vote(unit(99), "x", 1.0))  # judged by one alone: agrees with nobody
    found = agreement(ballots)
    assert (found["annotators"], found["units"], found["raw"]) == (2, 10, 70.0)
    # Krippendorff: 1 − observed over expected disagreement, from the coincidences of all values.
    counts = np.array([sum(value == label for value in one + other) for label in (0, 0.5, 1)])
    n = counts.sum()
    expected = (n * n - (counts**2).sum()) / (n * (n - 1))
    assert found["krippendorff_alpha"] == pytest.approx(1 - 0.3 / expected)
    assert found["between"] == [{"annotators": ["x", "y"], "units": 10, "raw": 70.0}]
    assert agreement([Vote(unit(0), name, 1.0) for name in "xy"])["krippendorff_alpha"] is None


def test_a_judge_that_likes_the_first_answer_is_found_out():
    looks = [(1.0, "model"), (0.0, "baseline")] * 15 + [(1.0, "model"), (1.0, "baseline")] * 5
    verdicts = [Verdict(unit(n // 2), "judge", score, first, "") for n, (score, first) in enumerate(looks)]
    comparison = Comparison("m", "b", verdicts)
    found = position_bias(comparison)
    assert (found["decided"], found["first"]) == (40, 100 * 35 / 40)
    assert (found["both_orders"], found["consistent"]) == (20, 25.0)
    assert found["p_value"] < 1e-4
    assert [vote.score for vote in comparison.votes] == [0.5] * 15 + [1.0] * 5


def test_lengths_fall_into_the_right_rows():
    pairs = [(49, 100), (60, 100), (100, 100), (110, 100), (150, 100), (200, 100), (201, 100)]
    rows = by_length([Vote(unit(n, *lengths), "x", 1.0) for n, lengths in enumerate(pairs)])
    assert [(row["length"], row["wins"]) for row in rows] == [
        ("model's less than half as long", 1),
        ("model's shorter", 1),
        ("within a tenth", 2),
        ("model's longer", 2),
        ("model's more than twice as long", 1),
    ]


def test_strengths_come_back_from_votes_that_follow_them():
    strengths = {"a": 0.8, "b": 0.0, "c": -0.8}
    generator, comparisons = random.Random(3), []
    for model, baseline in (("a", "b"), ("b", "c")):  # a and c have never met
        chance = 1 / (1 + math.exp(strengths[baseline] - strengths[model]))
        scores = [float(generator.random() < chance) for _ in range(3000)]
        verdicts = [Verdict(unit(n), "x", score, None, "") for n, score in enumerate(scores)]
        comparisons.append(Comparison(model, baseline, verdicts))
    found = rank(comparisons)
    assert [one["model"] for one in found["models"]] == ["a", "b", "c"]
    for one in found["models"]:
        assert one["strength"] == pytest.approx(strengths[one["model"]], abs=0.1)
        assert one["ci95"][0] < one["strength"] < one["ci95"][1]
        assert one["elo"] == pytest.approx(1000 + 400 / math.log(10) * one["strength"])
    assert [one["votes"] for one in found["models"]] == [3000, 6000, 3000]


def test_one_that_wins_all_is_ranked_by_an_added_tie_and_those_that_never_meet_are_refused():
    def all_won(model: str, baseline: str) -> Comparison:
        return Comparison(model, baseline, [Verdict(unit(n), "x", 1.0, None, "") for n in range(9)])

    found = rank([all_won("a", "b"), all_won("b", "c")])
    assert found["added_ties"]
    assert [one["model"] for one in found["models"]] == ["a", "b", "c"]
    # 9 wins and half a tie against the other half: the difference is the logarithm of the odds.
    assert found["models"][0]["strength"] - found["models"][1]["strength"] == pytest.approx(math.log(9.5 / 0.5))
    ties = rank([Comparison("a", "b", [Verdict(unit(n), "x", 0.5, None, "") for n in range(9)]), all_won("b", "c")])
    assert ties["models"][0]["strength"] == pytest.approx(ties["models"][1]["strength"])
    with pytest.raises(UserError, match="nothing that connects"):
        rank([all_won("a", "b"), all_won("c", "d")])
