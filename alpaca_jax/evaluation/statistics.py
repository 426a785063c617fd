"""What votes say about two models: rates with their uncertainty, agreement, and what length and order do.

All rates are in percent, as AlpacaEval gives them. Of scores s_i in [0, 1] (a tie is ½) of N votes:

    win_rate        the mean of s, which counts a tie as half a win
    standard_error  std(s, ddof=1) / √N where each unit has one vote; with several the votes on a unit are one cluster
                    (Liang & Zeger 1986, with the factor G/(G − 1) for G units), which with one vote each is the same
    ci95            Wilson's score interval for N votes; with several to a unit, for N over the design effect, which is
                    how many times larger the clusters make the variance (Kish 1965), at least 1
    p_value         two-sided sign test over units: those whose mean score is above ½ against those below it
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from alpaca_jax.evaluation.comparisons import Comparison, Verdict, Vote

# By what part of the longer answer's length the model's differs: negative where the model's is the shorter.
_LENGTHS = (
    (-0.5, "model's less than half as long"),
    (-0.1, "model's shorter"),
    (0.1, "within a tenth"),
    (0.5, "model's longer"),
    (float("inf"), "model's more than twice as long"),
)
_MOST_ANNOTATORS_COMPARED = 12
Z95 = 1.959963984540054  # standard deviations that 95% of a normal distribution lie within


def rates(votes: Sequence[Vote]) -> dict[str, Any]:
    """Counts and rates of votes; rates are None where no vote has a score, the error also where there is only one unit.

    Returns:
      `wins, losses, ties, null, votes` (with a score), `units`, `win_rate, standard_error, ci95, p_value`.
    """
    scored = [(vote.score, vote.unit.id) for vote in votes if vote.score is not None]
    s_N = np.array([score for score, _ in scored])
    counts = {
        "wins": int((s_N > 0.5).sum()),
        "losses": int((s_N < 0.5).sum()),
        "ties": int((s_N == 0.5).sum()),
        "null": len(votes) - len(scored),
        "votes": len(scored),
        "units": len({unit for _, unit in scored}),
    }
    if not scored:
        return counts | dict.fromkeys(("win_rate", "standard_error", "ci95", "p_value"))
    groups_N = _numbered([unit for _, unit in scored])
    error = _clustered_error(s_N, groups_N)
    return counts | {
        "win_rate": 100 * float(s_N.mean()),
        "standard_error": None if error is None else 100 * error,
        "ci95": _wilson(float(s_N.mean()), _effective_number(s_N, counts["units"], error)),
        "p_value": _sign_test(s_N, groups_N),
    }


def _clustered_error(s_N: np.ndarray, groups_N: np.ndarray) -> float | None:
    """Standard error of the mean, each group being a cluster; None for a single one."""
    from statsmodels.regression.linear_model import OLS

    if groups_N.max() == 0:
        return None
    if (s_N == s_N[0]).all():
        return 0.0
    fit = OLS(s_N, np.ones((len(s_N), 1))).fit(cov_type="cluster", cov_kwds={"groups": groups_N})
    return float(fit.bse[0])


def _effective_number(s_N: np.ndarray, units: int, error: float | None) -> float:
    """How many independent votes would be as sure."""
    if units == len(s_N):
        return float(units)
    variance = s_N.var(ddof=1) / len(s_N)
    if error is None or variance == 0:
        return float(units)
    return len(s_N) / float(np.clip(error**2 / variance, 1, len(s_N) / units))


def _wilson(share: float, number: float) -> list[float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(share * number, number, alpha=0.05, method="wilson")
    return [100 * float(low), 100 * float(high)]


def _sign_test(s_N: np.ndarray, groups_N: np.ndarray) -> float:
    from scipy.stats import binomtest

    means = np.bincount(groups_N, weights=s_N - 0.5)
    wins, losses = int((means > 0).sum()), int((means < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def length_controlled(votes: Sequence[Vote]) -> dict[str, Any]:
    """The win rate that is to be expected of answers of equal length, as in AlpacaEval 2 (Dubois et al. 2024).

    A logistic model with the difference of the answers' lengths, in characters, as its one covariate,

        logit P(win) = θ + φ · tanh((model_length − baseline_length) / σ),

    σ being the standard deviation of the differences, is fitted to the scores by maximum likelihood, with errors
    clustered by unit; the rate is that for a difference of 0, 100 / (1 + e^−θ). (AlpacaEval adds how hard each
    instruction is, which takes the votes on many models, and a penalty on φ.)

    Returns:
      `win_rate`, `ci95`, `length_effect` (φ); or, where there is no such fit, these as None and a `reason`.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    scored = [vote for vote in votes if vote.score is not None]
    d_N = np.array([vote.unit.model_length - vote.unit.baseline_length for vote in scored], float)
    nothing: dict[str, Any] = {"win_rate": None, "ci95": None, "length_effect": None}
    if len({vote.unit.id for vote in scored}) < 10:
        return nothing | {"reason": "fewer than 10 pairs with votes"}
    if not d_N.std():
        return nothing | {"reason": "all differences of length are the same"}
    s_N = np.array([vote.score for vote in scored], float)
    x_N2 = np.stack([np.ones(len(d_N)), np.tanh(d_N / d_N.std())], axis=1)
    if (s_N == s_N[0]).all():
        return nothing | {"reason": "all votes are the same"}
    groups_N = _numbered([vote.unit.id for vote in scored])
    if _separates(d_N, s_N):
        return nothing | {"reason": "length alone tells wins from losses"}
    fit = GLM(s_N, x_N2, family=Binomial()).fit(cov_type="cluster", cov_kwds={"groups": groups_N})
    theta, error = float(fit.params[0]), float(fit.bse[0])
    low, high = (100 * _logistic(theta + z * error) for z in (-Z95, Z95))
    return {"win_rate": 100 * _logistic(theta), "ci95": [low, high], "length_effect": float(fit.params[1])}


def _logistic(x: float) -> float:
    from scipy.special import expit

    return float(expit(x))


def _separates(d_N: np.ndarray, s_N: np.ndarray) -> bool:
    """Whether a threshold on the difference divides the scores above 0 from those below 1: there is no fit then.

    Not all scores are the same, so that there are some of either.
    """
    won, lost = d_N[s_N > 0], d_N[s_N < 1]
    return bool(won.min() >= lost.max() or won.max() <= lost.min())


def agreement(votes: Sequence[Vote]) -> dict[str, Any]:
    """How far annotators agree, of win, loss and tie, on the units that two of them or more have judged.

    Returns:
      `annotators` and `units` (numbers), `raw` (percent of two annotators' votes on a unit that are the same),
      `krippendorff_alpha` (nominal; Krippendorff 2011; None where no two votes differ), `between` (for each two
      annotators `units` and `raw`).
    """
    import krippendorff

    by_unit: dict[str, dict[str, float]] = {}
    for vote in votes:
        if vote.score is not None:
            by_unit.setdefault(vote.unit.id, {})[vote.annotator] = float(np.sign(vote.score - 0.5))
    shared = [labels for labels in by_unit.values() if len(labels) > 1]
    annotators = list(dict.fromkeys(name for labels in by_unit.values() for name in labels))
    couples: dict[tuple[str, str], list[bool]] = {}
    for labels in shared:
        for one, other in itertools.combinations([name for name in annotators if name in labels], 2):
            couples.setdefault((one, other), []).append(labels[one] == labels[other])
    table = np.array([[labels.get(name, np.nan) for labels in shared] for name in annotators])
    equal = [same for several in couples.values() for same in several]
    differ = shared and len(np.unique(table[~np.isnan(table)])) > 1
    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="nominal") if differ else None
    between = [
        {"annotators": list(couple), "units": len(several), "raw": 100 * sum(several) / len(several)}
        for couple, several in couples.items()
    ]
    return {
        "annotators": len(annotators),
        "units": len(shared),
        "raw": 100 * sum(equal) / len(equal) if equal else None,
        "krippendorff_alpha": None if alpha is None else float(alpha),
        "between": between if len(annotators) <= _MOST_ANNOTATORS_COMPARED else [],
    }


def position_bias(comparison: Comparison) -> dict[str, Any]:
    """How often the answer shown first, or on the left, was preferred, where either was.

    Returns:
      `decided` verdicts, `first` (percent of them), `ci95` (Wilson), `p_value` (sign test against a half); of units
      that an annotator has seen in both orders `both_orders` (number) and `consistent` (percent with the same verdict
      in both).
    """
    from scipy.stats import binomtest

    decided = [one for one in comparison.verdicts if one.first and one.score is not None and one.score != 0.5]
    first = sum(_prefers_first(verdict) for verdict in decided)
    known = [
        (one.score, other.score)
        for one, other in comparison.orders
        if one.score is not None and other.score is not None
    ]
    share = first / len(decided) if decided else None
    return {
        "decided": len(decided),
        "first": None if share is None else 100 * share,
        "ci95": None if share is None else _wilson(share, len(decided)),
        "p_value": float(binomtest(first, len(decided)).pvalue) if decided else None,
        "both_orders": len(known),
        "consistent": 100 * sum(one == other for one, other in known) / len(known) if known else None,
    }


def _prefers_first(verdict: Verdict) -> bool:
    assert verdict.score is not None, "only of decided verdicts"
    return (verdict.score > 0.5) == (verdict.first == "model")


def by_category(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Rates for each category, the largest first; empty where there are no categories."""
    if not any(vote.unit.category for vote in votes):
        return []
    groups = _grouped(votes, lambda vote: vote.unit.category or "(none)")
    return [
        {"category": name, **rates(group)} for name, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def by_length(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Rates by how much longer the model's answer is than the baseline's, from the shortest on."""
    groups = _grouped(votes, _length_of)
    return [{"length": name, **rates(groups[name])} for _, name in _LENGTHS if name in groups]


def _length_of(vote: Vote) -> str:
    ours, theirs = vote.unit.model_length, vote.unit.baseline_length
    part = (ours - theirs) / max(ours, theirs, 1)
    return next(name for bound, name in _LENGTHS if part < bound or (part == bound and bound > 0))


def _grouped(votes: Sequence[Vote], name_of: Callable[[Vote], str]) -> dict[str, list[Vote]]:
    groups: dict[str, list[Vote]] = {}
    for vote in votes:
        groups.setdefault(name_of(vote), []).append(vote)
    return groups


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """A number from 0 for each, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])
