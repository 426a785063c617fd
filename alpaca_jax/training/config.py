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
                "compute_dtype": "bfloat16",  # arithmetic, whatever the type of the weights that are kept
                # Of products in float32: "BF16_BF16_F32" rounds what is multiplied to bfloat16 and sums in float32, at
                # twice the speed on CPUs that know bfloat16; "default" leaves it to the device.
                "matmul_precision": "default",
                "parameter_dtype": "float32",  # of the weights that are kept; bfloat16: rounded stochastically
                "attention": "auto",  # kernel: auto, xla (the reference), cudnn, cudnn_packed (from H100), splash (TPU)
                "remat": "dots",  # what the backward pass keeps: none (all), dots, offload (on the host), full (least)
                "loss_chunk": 640,  # trained targets of a device whose logits exist at once
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
                "max_bad_updates": 5,  # skipped in a row for a loss or gradient that is not finite, after which to stop
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
                "first_moment_dtype": "float32",  # of Adam's mean of gradients: float32 or bfloat16
            },
            "checkpoint": {
                "every": 100,  # updates between saves; the last update is always saved
                "keep": 2,  # newest saves to keep
                "keep_best": 1,  # saves with the lowest held-out loss to keep besides; --checkpoint=WORKDIR/best
            },
            "evaluation": {
                # Updates between evaluations on the split `eval`, where the data have one; 0: only those that there
                # are in any case, before the first update, after the last, and, unless checkpoint.keep_best is 0, of
                # each update that is saved.
                "every": 50,
                "rows": 64,  # rows of that split to use; 0: all
            },
            "samples": {
                # Updates between sample answers; 0: only those that there are in any case, after the last update and,
                # of a checkpoint's weights, before the first.
                "every": 0,
                "instructions": (),  # answered greedily, to see what the model has learned
                "max_new_tokens": 64,
            },
            "logging": {
                "wandb_project": "",  # send the numbers to this project of Weights & Biases too; empty: do not
                "profile_steps": (),  # (first, last): trace these updates into WORKDIR/profile
            },
        }
    )
    return config.lock()  # a misspelt key in a configuration file is an error, not a new key


_AT_LEAST = {
    "train.batch_rows": 1,
    "train.microbatches": 1,
    "train.steps": 0,
    "train.seed": 0,
    "train.max_bad_updates": 2,
    "data.seed": 0,
    "data.seq_len": 0,
    "mesh.cpu_devices": 1,
    "model.loss_chunk": 1,
    "checkpoint.keep_best": 0,
    "evaluation.every": 0,
    "evaluation.rows": 0,
    "samples.every": 0,
    "samples.max_new_tokens": 1,
    "optimizer.weight_decay": 0.0,
    "optimizer.eps": 0.0,
}
_MOST = 1_000_000  # more is a mistake, and infinity is none of JSON's numbers
_CHOICES = {
    "model.compute_dtype": ("bfloat16", "float32"),
    "model.matmul_precision": ("default", "BF16_BF16_F32"),
    "model.parameter_dtype": ("float32", "bfloat16"),
    "optimizer.first_moment_dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "cudnn_packed", "splash"),
    "model.remat": ("none", "dots", "offload", "full"),
    "optimizer.schedule": ("cosine", "linear", "constant"),
    "mesh.platform": ("", "cpu", "gpu", "tpu"),
}


def validate(config: ConfigDict, needs_data: bool = True) -> None:
    """Refuses values that no run could use, before any work.

    Args:
      config: all keys.
      needs_data: whether `data.path` must be given.

    Raises:
      UserError: names the key, what it takes and what was given.
    """
    for key in ("checkpoint.every", "checkpoint.keep"):
        _require(key, _get(config, key) >= 1, "a number ≥ 1, or the run would never be saved", _get(config, key))
    for key, smallest in _AT_LEAST.items():
        _require(key, _get(config, key) >= smallest, f"a number ≥ {smallest}", _get(config, key))
    for key in ("optimizer.weight_decay", "optimizer.eps"):
        _require(key, _get(config, key) <= _MOST, f"a number up to {_MOST:,}", _get(config, key))
    for key in ("train.seed", "data.seed"):
        _require(key, _get(config, key) < 2**32, "a number below 2**32", _get(config, key))
    for key in ("train.epochs", "optimizer.learning_rate", "optimizer.clip_norm"):
        _require(key, 0 < _get(config, key) <= _MOST, f"a positive number up to {_MOST:,}", _get(config, key))
    for key in ("optimizer.b1", "optimizer.b2", "optimizer.warmup_fraction"):
        _require(key, 0 <= _get(config, key) < 1, "a number from 0 to below 1", _get(config, key))
    for key, names in _CHOICES.items():
        if _get(config, key) not in names:
            refuse_unknown(_get(config, key), names, f"config.{key}")
    _require(
        "train.microbatches",
        config.train.batch_rows % config.train.microbatches == 0,
        f"a divisor of config.train.batch_rows, {config.train.batch_rows}",
        config.train.microbatches,
    )
    profiled = tuple(config.logging.profile_steps)
    _require(
        "logging.profile_steps",
        not profiled or (list(map(type, profiled)) == [int, int] and 1 <= profiled[0] <= profiled[1]),
        "(first, last), the numbers of two updates, or ()",
        profiled,
    )
    questions = tuple(config.samples.instructions)
    _require(
        "samples.instructions",
        all(isinstance(one, str) and one for one in questions),
        "a tuple of texts",
        questions,
    )
    _require("data.path", bool(config.data.path) or not needs_data, "a folder that `prepare` wrote", config.data.path)


def _get(config: ConfigDict, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]


def _require(key: str, holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise UserError(f"config.{key}", expected=expected, found=shorten(found), remedy=f"set --config.{key}")
