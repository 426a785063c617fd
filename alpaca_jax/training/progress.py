"""What a save holds besides arrays: where the run stands, and what must not change when it goes on."""

import json
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.training.run import Run


def progress_of(run: Run, step: int, best_eval_loss: float | None) -> dict[str, Any]:
    """The progress after update `step`, as JSON.

    Batches and random numbers are functions of a seed and of the number of the update, so that these are their state.
    """
    return {
        "step": step,
        "data": {
            "next_batch": step,
            "seed": run.config.data.seed,
            "batch_rows": run.config.train.batch_rows,
            "dataset": sha256_json(run.dataset.metadata),
        },
        "random": {"seed": run.config.train.seed},
        "template": run.template.sha256,
        "tokenizer": run.tokenizer.sha256,
        "best_eval_loss": best_eval_loss,
        "config": json.loads(run.config.to_json_best_effort()),
    }


def check_progress(run: Run, saved: dict[str, Any]) -> None:
    """Refuses to go on from a save with other batches or random numbers than it was made with.

    Raises:
      UserError: names the key that was changed.
    """
    keys = {
        "config.data.seed": ("data", "seed"),
        "config.train.batch_rows": ("data", "batch_rows"),
        "config.train.seed": ("random", "seed"),
    }
    now = progress_of(run, saved["step"], None)
    for key, (part, name) in keys.items():
        if saved[part][name] != now[part][name]:
            raise UserError(
                key,
                expected=f"{saved[part][name]}, with which {run.workdir} was begun",
                found=str(now[part][name]),
                remedy="leave it as it was, or choose another --workdir",
            )
