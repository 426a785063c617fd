"""Several models in one order of strength, from the votes on two of them at a time.

K models, N votes.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpaca_jax.evaluation.comparisons import Comparison
from alpaca_jax.support.errors import UserError

_ELO_A_NAT = 400 / np.log(10)
_Z95 = 1.959963984540054


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
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    names = list(dict.fromkeys(name for one in comparisons for name in (one.model, one.baseline)))
    number = {name: place for place, name in enumerate(names)}
    rows: list[tuple[int, int, float, str]] = [
        (number[one.model], number[one.baseline], vote.score, vote.unit.question)
        for one in comparisons
        for vote in one.votes
        if vote.score is not None
    ]
    wins_KK = np.zeros((len(names), len(names)))
    for i, j, score, _ in rows:
        wins_KK[i, j] += score
        wins_KK[j, i] += 1 - score
    _check_connected(wins_KK, names)
    added_ties = _parts(wins_KK, "strong")[0] > 1
    if added_ties:
        rows += [
            (number[one.model], number[one.baseline], 0.5, f"tie {place}") for place, one in enumerate(comparisons)
        ]

    x_NK = np.zeros((len(rows), len(names)))
    for row, (i, j, _, _) in enumerate(rows):
        x_NK[row, i], x_NK[row, j] = 1, -1
    units = {unit: place for place, unit in enumerate(dict.fromkeys(unit for *_, unit in rows))}
    groups_N = np.array([units[unit] for *_, unit in rows])
    # Only differences count: the first model is held at 0, and all are moved to mean 0 afterwards.
    scores_N = np.array([row[2] for row in rows])
    with warnings.catch_warnings():
        # Nothing but ties is predicted perfectly as well, and says where the strengths are.
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        fit = GLM(scores_N, x_NK[:, 1:], family=Binomial()).fit(cov_type="cluster", cov_kwds={"groups": groups_N})
    centre_KK = np.eye(len(names)) - 1 / len(names)
    beta_K = centre_KK @ np.concatenate([[0.0], fit.params])
    covariance_KK = np.zeros((len(names), len(names)))
    covariance_KK[1:, 1:] = fit.cov_params()
    error_K = np.sqrt(np.diag(centre_KK @ covariance_KK @ centre_KK))
    models = []
    for place in np.argsort(-beta_K, kind="stable"):
        ends = [float(beta_K[place] + z * error_K[place]) for z in (-_Z95, _Z95)]
        models.append(
            {
                "model": names[place],
                "strength": float(beta_K[place]),
                "ci95": ends,
                "elo": _elo(beta_K[place]),
                "elo_ci95": [_elo(end) for end in ends],
                "votes": int(np.abs(x_NK[:, place]).sum()) - added_ties * _comparisons_of(names[place], comparisons),
            }
        )
    return {"models": models, "added_ties": bool(added_ties)}


def _comparisons_of(name: str, comparisons: Sequence[Comparison]) -> int:
    return sum(name in (one.model, one.baseline) for one in comparisons)


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
