"""Every configuration key, its default and its meaning. A file in `configs/` holds only what differs.

This is all there is to set; a key that is not here is refused.
"""

from typing import Any

from ml_collections import ConfigDict

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.program import refuse_unknown


def default_config() -> ConfigDict:
    """The defaults: the published Alpaca recipe, on all devices there are."""
    config = ConfigDict(
        {
            "model": {
                "preset": "tiny",  # a name in alpaca_jax/model/presets.py
                "checkpoint": "",  # start from this checkpoint folder; empty: from random numbers
                "compute_dtype": "bfloat16",  # arithmetic; the master weights and moments stay float32
                "remat": "dots",  # what the backward pass keeps: none (all), dots, full (least)
                "loss_chunk": 1024,  # trained targets of a device whose logits exist at once
            },
            "data": {
                "path": "",  # a folder that `prepare` wrote
                "seq_len": 0,  # the length of its rows; another is refused; 0: any
                "seed": 0,  # order of the rows
            },
            "mesh": {
                "platform": "",  # gpu, tpu, or cpu (virtual devices); empty: whatever JAX finds
                "cpu_devices": 8,  # how many, on platform "cpu"
                "data": 1,  # copies of the model
                "fsdp": -1,  # parts of the batch and of the parameters; -1: all devices left
                "context": 1,  # parts of each row, for long rows; the parameters are split over them too
                "tensor": 1,  # parts of each matrix product
            },
            "train": {
                "batch_rows": 32,  # packed rows an update, over all devices; 32 rows of 512 hold about 128 examples
                "microbatches": 1,  # parts in which an update's rows are worked through, to save memory
                "epochs": 3.0,  # passes over the data; they set the length of the schedule
                "steps": 0,  # stop after this many updates, the schedule unchanged; 0: after the epochs
                "seed": 0,  # of random initial weights
            },
            "optimizer": {
                "learning_rate": 2e-5,  # the highest, at the end of the warm-up
                "schedule": "cosine",  # cosine, linear (both fall to 0) or constant
                "warmup_fraction": 0.03,  # of all updates, rising linearly from 0
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,  # on matrices; norms are never decayed
                "clip_norm": 1.0,  # the largest norm of a gradient
            },
            "checkpoint": {
                "every": 100,  # updates between saves; the last update is always saved
                "keep": 2,  # newest saves to keep
            },
            "evaluation": {
                "every": 50,  # updates between evaluations on the split `eval`, where the data have one
                "rows": 64,  # rows of that split to use; 0: all
            },
            "samples": {
                "every": 0,  # updates between sample answers; 0: before the first and after the last only
                "instructions": (),  # answered greedily, to see what the model has learned
                "max_new_tokens": 64,
            },
        }
    )
    return config.lock()  # a misspelt key in a configuration file is an error, not a new key


def validate(config: ConfigDict, needs_data: bool = True) -> None:
    """Refuses values that no run could use, before any work.

    Args:
      config: all keys.
      needs_data: whether `data.path` must be given.

    Raises:
      UserError: names the key, what it takes and what was given.
    """
    at_least = {
        "train.batch_rows": 1,
        "train.microbatches": 1,
        "train.steps": 0,
        "train.seed": 0,
        "data.seed": 0,
        "data.seq_len": 0,
        "mesh.cpu_devices": 1,
        "model.loss_chunk": 1,
        "checkpoint.every": 1,
        "checkpoint.keep": 1,
        "evaluation.every": 1,
        "evaluation.rows": 0,
        "samples.every": 0,
        "samples.max_new_tokens": 1,
        "optimizer.weight_decay": 0.0,
        "optimizer.eps": 0.0,
    }
    for key, smallest in at_least.items():
        _require(key, _get(config, key) >= smallest, f"a number ≥ {smallest}", _get(config, key))
    for key in ("train.epochs", "optimizer.learning_rate", "optimizer.clip_norm"):
        _require(key, _get(config, key) > 0, "a positive number", _get(config, key))
    for key in ("optimizer.b1", "optimizer.b2", "optimizer.warmup_fraction"):
        _require(key, 0 <= _get(config, key) < 1, "a number from 0 to below 1", _get(config, key))
    choices = {
        "model.compute_dtype": ("bfloat16", "float32"),
        "model.remat": ("none", "dots", "full"),
        "optimizer.schedule": ("cosine", "linear", "constant"),
        "mesh.platform": ("", "cpu", "gpu", "tpu"),
    }
    for key, names in choices.items():
        if _get(config, key) not in names:
            refuse_unknown(_get(config, key), names, f"config.{key}")
    _require(
        "train.microbatches",
        config.train.batch_rows % config.train.microbatches == 0,
        f"a divisor of config.train.batch_rows, {config.train.batch_rows}",
        config.train.microbatches,
    )
    _require("data.path", bool(config.data.path) or not needs_data, "a folder that `prepare` wrote", config.data.path)


def _get(config: ConfigDict, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def _require(key: str, holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise UserError(f"config.{key}", expected=expected, found=shorten(found), remedy=f"set --config.{key}")
