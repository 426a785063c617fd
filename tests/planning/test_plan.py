"""The program `plan`, on a model small enough to be compiled in seconds."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import pytest

from alpaca_jax.model.definition import define
from alpaca_jax.model.rematerialisation import POLICIES
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.planning import forecast
from alpaca_jax.planning.arithmetic import Flops, matrix_flops
from alpaca_jax.planning.compiler import CompiledStep, compile_step
from alpaca_jax.training.compilation import trace_train_step
from alpaca_jax.training.config import default_config
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser
from alpaca_jax.training.state import state_shardings
from tests.models import SMALL
from tests.programs import run, the_one_line

CONFIGURATION = """
from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

def get_config(target="h200x1"):
    config = default_config()
    config.data.seq_len = 128
    config.train.batch_rows = 4
    config.train.epochs = 1.0
    return set_target(config, target, {"h200x1": {}, "cpu": {}})
"""


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configuration") / "small.py"
    path.write_text(CONFIGURATION)
    return path


@pytest.fixture(scope="module")
def compiled() -> list[CompiledStep]:
    """What was compiled for the fixture below."""
    return []


@pytest.fixture(scope="module")
def planned(configuration: Path, compiled: list[CompiledStep]) -> dict:
    def remember(*arguments) -> CompiledStep:
        compiled.append(compile_step(*arguments))
        return compiled[-1]

    flags = "--price=3", "--records=1000", "--tokens_per_record=64", "--json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "compile_step", remember)
        code, out, err = run("plan", f"--config={configuration}:h200x1", *flags)
    assert code == 0, err
    assert len(compiled) == 1
    return json.loads(out.splitlines()[-1])


def test_what_it_says(planned: dict):
    promised = {"fits", "state_gib", "peak_gib", "limit_gib", "collectives", "compile_seconds", "step_seconds"}
    assert promised | {"hours", "cost_usd", "assumptions", "mfu"} <= planned.keys()
    assert planned["fits"] is True
    assert 0 < planned["state_gib"] <= planned["peak_gib"] < planned["limit_gib"]
    assert planned["collectives"] == {}  # on one device
    assert any("75%" in sentence for sentence in planned["assumptions"])
    assert planned["largest_microbatch_rows"] == 4


def test_hours_and_cost_follow_from_the_step(planned: dict):
    updates = math.ceil(1000 * 64 / (4 * 128 * 0.987))
    assert planned["updates"] == updates
    # Both are rounded in the output.
    assert planned["hours"] == pytest.approx(updates * planned["step_seconds"] / 3600, abs=1e-3, rel=0.05)
    assert planned["cost_usd"] == pytest.approx(3 * planned["hours"], abs=0.01)


def test_the_search_finds_nothing_slower(configuration: Path, planned: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecast, "POLICIES", ["dots", "full"])  # each is compiled
    code, out, err = run("plan", f"--config={configuration}:h200x1", "--search", "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["step_seconds"] <= planned["step_seconds"]


@pytest.fixture
def memory_by_setting(planned: dict, compiled: list[CompiledStep], monkeypatch: pytest.MonkeyPatch):
    """Makes up what a step takes, in limits, and the time it takes, by rematerialisation and microbatches."""

    def compile_step(config, target, model, devices):
        remat, microbatches = config.model.remat, config.train.microbatches
        share = {"none": 8.0, "dots": 1.5, "offload": 1.2, "full": 0.9}[remat] / microbatches
        flops = {"none": 1.0, "dots": 1.0, "offload": 1.2, "full": 1.3}[remat] * (1 + 0.2 * microbatches) * 1e12
        return dataclasses.replace(compiled[0], peak=int(share * compiled[0].limit), flops=flops)

    monkeypatch.setattr(forecast, "compile_step", compile_step)


@pytest.mark.usefixtures("memory_by_setting")
def test_the_fastest_that_fits_is_chosen(configuration: Path):
    code, out, err = run("plan", f"--config={configuration}:h200x1", "--search", "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert (found["remat"], found["microbatches"], found["largest_microbatch_rows"]) == ("dots", 2, 2)
    tried = [line.split()[:2] for line in err.splitlines() if line.split()[0] in POLICIES]
    # Of a rematerialisation, no more than the first number of microbatches that fits.
    wanted = (
        {("none", n) for n in "124"} | {("dots", n) for n in "12"} | {("offload", n) for n in "12"} | {("full", "1")}
    )
    assert {tuple(setting) for setting in tried} == wanted


@pytest.mark.usefixtures("memory_by_setting")
@pytest.mark.parametrize(("remat", "code", "words"), [("dots", 1, "2 rows"), ("none", 1, "none fits")])
def test_a_step_that_does_not_fit_exits_with_1(remat: str, code: int, words: str, configuration: Path):
    found, out, err = run("plan", f"--config={configuration}:h200x1", f"--config.model.remat={remat}")
    assert found == code
    assert "does not fit" in out + err
    assert words in out + err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config={}:h200x2"], "h200x1"),
        (["--config={}:cpu"], "a machine to plan for"),
        (["--config={}"], "FILE:TARGET"),
        (["--config={}:h200x1", "--price=0"], "--price"),
        (["--config={}:h200x1", "--config.data.seq_len=0"], "config.data.seq_len"),
        (["--config={}:h200x1", "--config.mesh.tensor=2"], "config.mesh"),
    ],
)
def test_refusals(flags: list[str], words: str, configuration: Path):
    assert words in the_one_line("plan", *(flag.format(configuration) for flag in flags))


def test_the_products_of_a_step_by_hand():
    """Forward once, backward twice: 6 a weight and token, 14 a pair of query and key; the head where it is used.

    Of the 14, 2 are the scores, which the reference attention's gradient makes again.
    """
    config = default_config()
    rows, length, chunk = 4, 64, 16
    config.train.batch_rows, config.model.loss_chunk, config.model.compute_dtype = rows, chunk, "float32"
    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    definition, optimiser = define(SMALL, "none"), make_optimiser(config, learning_rate_schedule(config, 10))
    shardings = state_shardings(definition, optimiser, mesh)
    traced = trace_train_step(definition, optimiser, config, shardings, mesh, length)

    m = SMALL
    head = m.hidden_size * m.padded_vocab_size
    norms = (2 * m.num_layers + 1) * m.hidden_size
    in_layers = m.num_parameters - norms - head * (1 if m.tied_embeddings else 2)
    attention = 14 * m.num_layers * rows * m.num_heads * length * length * m.head_dim
    chunks = 3  # of each of the two devices
    by_hand = 6 * in_layers * rows * length + attention + 6 * head * chunks * chunk * 2
    assert matrix_flops(traced, open_loops=chunks) == Flops(by_hand, 0)
