"""Checkpoints to models that are ready to answer."""

from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.load import load_engine
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.watermark import Watermark
from alpaca_jax.serving.service import ServedModel
from alpaca_jax.support.hashing import sha256_file


def load_models(
    checkpoints: Sequence[str],
    *,
    dtype: str | None,
    template: str | None,
    slots: int,
    context: int | None,
    watermark: Watermark | None,
) -> list[ServedModel]:
    """The models of checkpoints, in their order, named after their folders and with a first token already made.

    Raises:
      UserError: as `load_engine`; all checkpoints are looked at before the first is read.
    """
    folders = [CheckpointFolder.open(path) for path in checkpoints]
    models = list[ServedModel]()
    for path, folder, name in zip(checkpoints, folders, names_of(checkpoints), strict=True):
        engine = load_engine(path, dtype, template, slots=slots, context=context, watermark=watermark)
        _warm_up(engine)
        description = folder.path / "model.json"
        models.append(ServedModel(name, engine, sha256_file(description), int(description.stat().st_mtime)))
    return models


def names_of(checkpoints: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart; a number after those that are the same.

    >>> names_of(["runs/a/base", "runs/b/base"]), names_of(["runs/base"])
    (['a/base', 'b/base'], ['base'])
    """
    parts = [Path(path).absolute().parts[1:] for path in checkpoints]
    length = 1
    while len({part[-length:] for part in parts}) < len({*parts}):
        length += 1
    names = ["/".join(part[-length:]) or "model" for part in parts]
    return [name if name not in names[:place] else f"{name}-{place + 1}" for place, name in enumerate(names)]


def _warm_up(engine: Engine) -> None:
    """Makes two tokens, so that what fails does so now, and nobody waits for the compiler at the first question."""
    engine.submit(engine.prompt_ids("a"), Sampling(max_new_tokens=2), lambda piece: None)
    while engine.step():
        pass
