"""Every shipped configuration, for every target it can have here, with its model shrunk: two updates and an answer."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.model import presets
from alpaca_jax.training.command_line import read_config
from tests.programs import run

# The heads divide by every tensor axis that a configuration asks for.
SMALL = {"vocab_size": 2048, "hidden_size": 48, "intermediate_size": 64, "num_layers": 2}
SMALL |= {"num_heads": 8, "num_kv_heads": 4, "head_dim": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "packed"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=128), folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def _compiled_in_haste() -> Iterator[None]:
    """The same programs, their machine code not polished: it runs for a fraction of the time that polishing takes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.py")), ids=lambda path: path.stem)
def test_it_trains_and_answers(path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = read_config(str(path), []).model.preset
    monkeypatch.setitem(presets.PRESETS, name, dataclasses.replace(presets.PRESETS[name], **SMALL))
    flags = [
        f"--config={path}",
        f"--workdir={tmp_path}/run",
        f"--config.data.path={data}",
        "--config.train.steps=2",
        "--config.samples.max_new_tokens=2",
        "--config.mesh.platform=cpu",  # what the tests run on, whatever the target asks for
        "--config.mesh.cpu_devices=8",
        "--config.data.seq_len=0",
        "--config.train.batch_rows=8",
    ]
    code, _, err = run("train", *flags)
    assert code == 0, err
    code, out, err = run("generate", f"--checkpoint={tmp_path}/run", "--instruction=Hello", "--max_new_tokens=3")
    assert code == 0, err
    assert out
