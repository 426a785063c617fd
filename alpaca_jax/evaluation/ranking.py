"""Several models in one order of strength, from the votes on two of them at a time.

K models, N votes.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.evaluation.comparisons import Comparison
from alpaca_jax.evaluation.statistics import Z95
from alpaca_jax.support.errors import UserError

_ELO_A_NAT = 400 / np.log(10)


class _Match(NamedTuple):
    """A vote on two models, by number: 1 where the first was preferred, 0 the second, ½ for a tie."""

    first: int
    second: int
    score: float
    unit: str


def rank(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The models by the model of Bradley and Terry (1952), the strongest first.

    P(i is preferred to j) = 1 / (1 + e^−(β_i − β_j)), fitted to the scores by maximum likelihood; a tie counts as half
    a win for either. The β have mean 0; their errors are clustered by unit, and the intervals are normal ones. Where a
    model has won or lost all (there is no largest likelihood then), one tie is added to each comparison.

    Returns:
      `models`: for each `model`, `strength` (β), `ci95`, `elo` (1000 + 400/ln 10 · β), `elo_ci95`, `votes`; and
      `added_ties`, whether ties were added.

    Raises:
      UserError: models that no chain of comparisons connects.
    """
    names = list(dict.fromkeys(name for one in comparisons for name in (one.model, one.baseline)))
    number = {name: place for place, name in enumerate(names)}
    matches = [
        _Match(number[one.model], number[one.baseline], vote.score, vote.unit.question)
        for one in comparisons
        for vote in one.votes
        if vote.score is not None
    ]
    wins_KK, votes_K = np.zeros((len(names), len(names))), np.zeros(len(names), int)
    for match in matches:
        wins_KK[match.first, match.second] += match.score
        wins_KK[match.second, match.first] += 1 - match.score
        votes_K[[match.first, match.second]] += 1
    _check_connected(wins_KK, names)
    added_ties = _parts(wins_KK, "strong")[0] > 1
    if added_ties:
        matches += [
            _Match(number[one.model], number[one.baseline], 0.5, f"tie {place}")
            for place, one in enumerate(comparisons)
        ]
    beta_K, error_K = _fit(matches, len(names))
    order = np.argsort(-beta_K, kind="stable")
    models = [_entry(names[place], beta_K[place], error_K[place], votes_K[place]) for place in order]
    return {"models": models, "added_ties": added_ties}


def _entry(model: str, beta: float, error: float, votes: int) -> dict[str, Any]:
    ends = [float(beta + z * error) for z in (-Z95, Z95)] if math.isfinite(error) else None
    elo = {"elo": _elo(beta), "elo_ci95": ends and [_elo(end) for end in ends]}
    return {"model": model, "strength": float(beta), "ci95": ends, **elo, "votes": int(votes)}


def _fit(matches: Sequence[_Match], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The strengths of so many models, of mean 0, and their standard errors, clustered by unit; both [K]."""
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    x_NK = np.zeros((len(matches), count))
    for row, match in enumerate(matches):
        x_NK[row, match.first], x_NK[row, match.second] = 1, -1
    units = {unit: place for place, unit in enumerate(dict.fromkeys(match.unit for match in matches))}
    groups_N = np.array([units[match.unit] for match in matches])
    scores_N = np.array([match.score for match in matches])
    with warnings.catch_warnings():
        # Nothing but ties is predicted perfectly as well, and says where the strengths are.
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        # Only differences count: the first model is held at 0, and all are moved to mean 0 afterwards.
        model = GLM(scores_N, x_NK[:, 1:], family=Binomial())
        if len(units) < 2 or len(matches) < count:  # nothing is left to tell an error from
            with np.errstate(invalid="ignore", divide="ignore"):  # statsmodels divides by the votes left over
                return _centred(np.concatenate([[0.0], model.fit().params])), np.full(count, np.nan)
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups_N})
    centre_KK = np.eye(count) - 1 / count
    covariance_KK = np.zeros((count, count))
    covariance_KK[1:, 1:] = fit.cov_params()
    return _centred(np.concatenate([[0.0], fit.params])), np.sqrt(np.diag(centre_KK @ covariance_KK @ centre_KK))


def _centred(beta_K: np.ndarray) -> np.ndarray:
    return beta_K - beta_K.mean()


def _elo(strength: float) -> float:
    return float(1000 + _ELO_A_NAT * strength)


def _parts(wins_KK: np.ndarray, connection: str) -> tuple[int, np.ndarray]:
    """How many parts the graph of who won against whom has, and which each model is in."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    return connected_components(csr_array(wins_KK > 0), directed=True, connection=connection)


def _check_connected(wins_KK: np.ndarray, names: Sequence[str]) -> None:
    count, part_K = _parts(wins_KK, "weak")
    if count > 1:
        one = next(name for name, part in zip(names, part_K, strict=True) if part == 0)
        other = next(name for name, part in zip(names, part_K, strict=True) if part == 1)
        raise UserError(
            "--votes",
            expected="models that are compared with each other, directly or through others",
            found=f"nothing that connects {one!r} with {other!r}",
            remedy="compare them, or report them apart",
        )
