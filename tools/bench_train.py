"""How fast an update is, side by side with the original recipe, TRL, MaxText and Tunix on the same weights and records.

    python -m tools.bench_train --config=configs/smollm2_135m.py:cpu --config.model.checkpoint=BASE --input=FILE
        [--trl=PYTHON] [--maxtext=PYTHON] [--tunix=PYTHON] [--rounds=5] [--updates=1] [--out=DIR] [--json]

Every update of each contestant holds the same examples, those of one of our batches: ours as `prepare` packs them and
`train` takes them, theirs padded or packed in their own way. Each contestant is a process; they take turns, one at a
time, so that whatever else the machine does slows all of them alike. Speeds count the tokens of the examples alone, no
padding; figures are medians of the rounds, with their range. The first update, from the start of the process, is timed
apart. Who waits keeps its weights and moments in memory (SmolLM2: 3 to 4 GiB each). Without config.model.checkpoint all
start from the same random numbers (then --tokenizer is needed).

The recipe needs the extra `torch`; the others an environment of their own, whose interpreter is given:

    python3 -m venv trl && trl/bin/pip install trl torch
    python3 -m venv tunix && tunix/bin/pip install google-tunix
    python3.12 -m venv maxtext && maxtext/bin/pip install 'maxtext[tpu]'      # its CPU needs are in that extra

A 7B on one GPU, whose memory does not hold two contestants (a row of 2,048 is a batch of TRL's):

    python -m tools.bench_train --config=configs/alpaca_7b.py:h200x1 --config.data.seq_len=2048
        --config.train.batch_rows=8 --tokenizer=TOKENIZER --input=FILE --recipe=bfloat16 --batch=4 --alone
        --rounds=4 --updates=5 --out=DIR
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.program import Flags, print_json, refuse_unknown, run_program
from alpaca_jax.training.command_line import read_config, split_config_flags
from tools.bench_train_driver import Entrant, compete

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_DTYPES = ("float32", "bfloat16")
# Everyone's learning rate is the highest of the configuration, from the first update on.
_CONSTANT = ["--config.optimizer.schedule=constant", "--config.optimizer.warmup_fraction=0.0"]


def main() -> int:
    """Parses the flags, lets the contestants take turns, prints a table."""
    arguments, changes = split_config_flags(sys.argv[1:])
    values = _flags().parse(arguments)
    for name in ("rounds", "updates", "batch"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name}", expected="at least 1", found=str(getattr(values, name)), remedy="raise it")

    from alpaca_jax.training.config import validate

    config = read_config(values.config, changes)
    validate(config, needs_data=False)
    if values.out:
        with explain_os_errors(values.out):
            Path(values.out).mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process prepares; the accelerator is the contestants'
    entrants = _entrants(values, config)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        setting, common, ours = _material(values, config, scratch)
        entrants[0].job = {"config": values.config, "changes": [*changes, *_CONSTANT, *ours]}
        work = setting.pop("work")
        compete(entrants, common, scratch, environment, values.rounds, values.updates, values.alone)
    if entrants[0].absent:
        raise UserError(entrants[0].name, expected="to train", found=entrants[0].absent, remedy="run `train` alone")

    from alpaca_jax.model.presets import preset
    from tools.bench_train_report import figures, print_table, write_report

    lines = figures(entrants, work, preset(config.model.preset))
    print_table(lines)
    if values.out:
        write_report(Path(values.out), setting, lines)
    if values.json:
        print_json(setting | {"results": lines})
    return 0


def _flags() -> Flags:
    flags = Flags(prog="python -m tools.bench_train", description=__doc__)
    flags.add_argument("--config", required=True, metavar="FILE[:TARGET]", help="as for `train`")
    flags.add_argument("--config.SECTION.KEY", metavar="VALUE", help="changes one value of the configuration")
    flags.add_argument("--input", required=True, metavar="FILE", help="instruction file")
    flags.add_argument("--tokenizer", metavar="PATH", help="where not the checkpoint's")
    flags.add_argument(
        "--recipe", default="float32,bfloat16", metavar="TYPE,…", help="(default: %(default)s; may be empty)"
    )
    for name in ("trl", "maxtext", "tunix"):
        flags.add_argument(f"--{name}", metavar="PYTHON", help=f"an interpreter that has {name}")
    flags.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    flags.add_argument("--updates", type=int, default=1, metavar="N", help="of a turn (default: %(default)s)")
    flags.add_argument("--batch", type=int, default=8, metavar="N", help="padded rows at a time (default: %(default)s)")
    flags.add_argument("--alone", action="store_true", help="one contestant after another, not by turns")
    flags.add_argument("--out", metavar="DIR", help="where results.jsonl and losses.png go")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    return flags


def _entrants(values: argparse.Namespace, config: "ConfigDict") -> list[Entrant]:
    """Ours first; those whose interpreter was not given are absent."""
    dtype = config.model.compute_dtype
    rounded = dtype == "float32" and config.model.matmul_precision != "default"
    ours = f"{dtype}, {config.model.matmul_precision}" if rounded else dtype
    found = [Entrant("alpaca_jax", ours, "bench_train_ours", sys.executable)]
    for wanted in filter(None, values.recipe.split(",")):
        if wanted not in _DTYPES:
            refuse_unknown(wanted, _DTYPES, "--recipe")
        found.append(Entrant("the recipe", wanted, "bench_train_torch", sys.executable))
    for name, given in (("trl", values.trl), ("maxtext", values.maxtext), ("tunix", values.tunix)):
        absent = "" if given else f"no interpreter was given (--{name}=PYTHON)"
        if given and not Path(given).is_file():
            raise UserError(f"--{name}", expected="an interpreter", found=f"no file {given!r}", remedy="see --help")
        python = str(Path(given).absolute()) if given else ""
        found.append(Entrant(name, dtype, f"bench_train_{name}", python, absent=absent))
    return found


def _material(
    values: argparse.Namespace, config: "ConfigDict", scratch: Path
) -> tuple[dict[str, Any], dict[str, Any], Sequence[str]]:
    """Weights and records for all: the setting to report, what all workers are told, and ours alone as flags."""
    import numpy as np

    from alpaca_jax.data.batches import TrainingBatches
    from alpaca_jax.data.packed_dataset import open_packed_dataset
    from alpaca_jax.data.preparation import Request, prepare

    if not config.data.seq_len:
        raise UserError("config.data.seq_len", expected="a length", found="0", remedy="set --config.data.seq_len=512")
    checkpoint, folder = _weights(values, config, scratch)
    tokenizer = values.tokenizer or Path(checkpoint) / "tokenizer"
    request = Request((Path(values.input),), Path(tokenizer), seq_len=config.data.seq_len)
    prepare(request, scratch / "data")
    batches = TrainingBatches(open_packed_dataset(scratch / "data"), config.train.batch_rows, config.data.seed)
    updates = [batches[number] for number in range(1 + values.rounds * values.updates)]
    rows: dict[str, Any] = {name: np.stack([update[name] for update in updates]) for name in updates[0]}
    np.savez(scratch / "rows.npz", **rows)
    segments, positions = rows["segment_ids"], rows["positions"]
    examples = segments.max(-1).sum(-1).tolist()
    tokens = (segments > 0).sum((1, 2)).tolist()
    work = {"tokens": tokens, "attended": np.where(segments > 0, positions + 1, 0).sum((1, 2)).tolist()}
    setting = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": values.config,
        "seq_len": config.data.seq_len,
        "batch_rows": config.train.batch_rows,
        "batch": values.batch,
        "by_turns": not values.alone,
        "examples": examples,
        "tokens": tokens,
        "fill": sum(tokens) / segments.size,
        "processors": os.cpu_count(),
        "work": work,
    }
    optimiser = {name: config.optimizer[name] for name in ("learning_rate", "b1", "b2", "eps", "weight_decay")}
    common = {
        "model": str(folder),
        "rows": str(scratch / "rows.npz"),
        "batch": values.batch,
        "seq_len": config.data.seq_len,
        "optimizer": optimiser | {"clip_norm": config.optimizer.clip_norm},
    }
    return (
        setting,
        common,
        [f"--config.model.checkpoint={checkpoint}", f"--config.data.path={scratch / 'data'}"],
    )


def _weights(values: argparse.Namespace, config: "ConfigDict", scratch: Path) -> tuple[str, Path]:
    """The same weights twice: a checkpoint, and a Hugging Face folder."""
    from alpaca_jax.convert.exporter import export_checkpoint
    from alpaca_jax.convert.importer import import_checkpoint
    from alpaca_jax.model.presets import preset
    from tools.make_random_llama import make_folder

    if config.model.checkpoint:
        return config.model.checkpoint, export_checkpoint(config.model.checkpoint, scratch / "model")
    if not values.tokenizer:
        raise UserError("--tokenizer", expected="a tokenizer", found="none", remedy="give one, or a model.checkpoint")
    make_folder(preset(config.model.preset), values.tokenizer, scratch / "model", config.train.seed)
    import_checkpoint(scratch / "model", scratch / "weights")
    return str(scratch / "weights"), scratch / "model"


if __name__ == "__main__":
    run_program(main)
