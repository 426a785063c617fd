"""How state and communication grow with the devices, read from programs compiled for 2, 4 and 8 of them; and the tool.

A train step of the small model, float32, its layers' activations made again: every weight of a layer is gathered for
the way forward and for the way back, every gradient summed once. The CPU's compiler sums whole gradients and keeps a
part where others scatter: n - 1 of n parts go around twice.
"""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.chips import CHIPS
from alpaca_jax.parallel.mesh import MESH_AXES, make_mesh
from alpaca_jax.planning import compiler
from alpaca_jax.planning.compiler import CompiledStep
from alpaca_jax.planning.hlo import Collective, Program
from alpaca_jax.support.errors import UserError
from alpaca_jax.training.compilation import trace_train_step
from alpaca_jax.training.config import default_config
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser
from alpaca_jax.training.state import state_shardings
from tests.models import SMALL
from tools import scaling
from tools.scaling_plot import plot

# data × fsdp × context × tensor
FSDP_2, FSDP_8 = (1, 2, 1, 1), (1, 8, 1, 1)
TENSOR_ON_4, TENSOR_ON_8 = (1, 2, 1, 2), (1, 4, 1, 2)
COPIES = (2, 4, 1, 1)
MESHES = [FSDP_2, FSDP_8, TENSOR_ON_4, TENSOR_ON_8, COPIES]

LENGTH, ROWS = 64, 2  # of a part of the batch
D, V, LAYERS = SMALL.hidden_size, SMALL.padded_vocab_size, SMALL.num_layers
NORMS = (2 * LAYERS + 1) * D
ENDS = 2 * V * D  # embedding and head
IN_LAYERS = SMALL.num_parameters - NORMS - ENDS


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Bytes of state and batch that a device holds, and its collectives."""

    state: int
    collectives: list[Collective]

    def sent(self, *kinds: str, group: tuple[int, ...]) -> float:
        """Bytes that a device sends within such groups in a step."""
        return sum(one.sent() for one in self.collectives if one.kind in kinds and one.group == group)


@functools.cache
def step_on(sizes: tuple[int, ...]) -> Compiled:
    config = default_config()
    config.model.compute_dtype = "float32"
    config.train.batch_rows = ROWS * sizes[0] * sizes[1]
    mesh = make_mesh(dict(zip(MESH_AXES, sizes, strict=True)), jax.devices()[: math.prod(sizes)])
    definition, optimiser = define(SMALL, "full"), make_optimiser(config, learning_rate_schedule(config, 10))
    traced = trace_train_step(definition, optimiser, config, state_shardings(definition, optimiser, mesh), mesh, LENGTH)
    compiled = traced.lower().compile(compiler_options={"xla_backend_optimization_level": 0})
    return Compiled(compiled.memory_analysis().argument_size_in_bytes, Program(compiled.as_text()).collectives())


def over(sizes: tuple[int, ...], axis: str) -> tuple[int, ...]:
    """The group of the first device along an axis of the mesh."""
    places = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), MESH_AXES.index(axis), -1)
    return tuple(places.reshape(-1, places.shape[-1])[0].tolist())


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_device_holds_its_share_of_the_state(sizes: tuple[int, ...]):
    _, fsdp, _, tensor = sizes
    counters = 3 * 4
    batch = ROWS * LENGTH * sum(np.dtype(dtype).itemsize for dtype in ROW_DTYPES.values())
    held = 12 * ((IN_LAYERS + ENDS) // (fsdp * tensor) + NORMS)  # the weight and two moments, float32
    assert step_on(sizes).state == held + counters + batch


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_weights_are_gathered_within_fsdp_once_a_use(sizes: tuple[int, ...]):
    """Twice those of a layer, once embedding and head: (n - 1) / n of what tensor parallelism leaves of them."""
    _, fsdp, _, tensor = sizes
    gathered = 4 * (2 * IN_LAYERS + ENDS) / tensor * (fsdp - 1) / fsdp
    step = step_on(sizes)
    assert step.sent("all-gather", group=over(sizes, "fsdp")) == gathered
    assert sum(one.sent() for one in step.collectives if one.kind == "all-gather") == gathered


@pytest.mark.parametrize("sizes", [mesh for mesh in MESHES if mesh != COPIES], ids=str)
def test_gradients_are_summed_once(sizes: tuple[int, ...]):
    _, fsdp, _, tensor = sizes
    gradients = 4 * ((IN_LAYERS + ENDS) / tensor + NORMS)
    sent = step_on(sizes).sent("all-reduce", "reduce-scatter", group=over(sizes, "fsdp"))
    around = 2 * (fsdp - 1) / fsdp
    assert around * gradients <= sent <= around * (gradients + 200)  # losses, counts and norms beside them


def test_copies_of_the_model_exchange_the_shares_that_they_hold():
    data, fsdp, _, _ = COPIES
    share = 4 * IN_LAYERS / fsdp
    assert step_on(COPIES).sent("all-reduce", group=over(COPIES, "data")) == 2 * (data - 1) / data * share
    whole = 4 * IN_LAYERS
    assert step_on(COPIES).sent("all-reduce", group=over(COPIES, "fsdp")) >= 2 * (fsdp - 1) / fsdp * whole


def test_tensor_parallelism_sends_activations_whatever_the_size_of_fsdp():
    sent = {
        sizes: step_on(sizes).sent("all-reduce", group=over(sizes, "tensor")) for sizes in (TENSOR_ON_4, TENSOR_ON_8)
    }
    assert sent[TENSOR_ON_4] == sent[TENSOR_ON_8]
    activations = ROWS * LENGTH * D * 4
    # Of a layer: two products forward and one of them again, and of those backward q, k and v, gate and up. The rest is
    # the embedding, the head and the scores' maxima and sums.
    in_layers = 8 * LAYERS * activations
    assert in_layers < sent[TENSOR_ON_4] < in_layers + 5 * activations


STEP = CompiledStep(
    state=2**33, donated=0, peak=2**34, limit=2**36, flops=1e14, attention_flops=1e12, moved=1e11, carried=0.0,
    collectives=[Collective("all-gather", 64, 2**29, 64.0, (0, 1), 8)], kernels={"b", "a"}, seconds=1.0,
)  # fmt: skip


def test_what_is_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def compile_step(config, target, model):
        asked.append((config.train.batch_rows, target.topology))
        return STEP

    monkeypatch.setattr(compiler, "compile_step", compile_step)
    case = scaling.Case("h100", 64, "data × fsdp", data=8)
    assert scaling.compiled(case, tmp_path) == STEP
    assert scaling.compiled(case, tmp_path) == STEP
    assert asked == [(128, "1x8x8")]
    scaling.compiled(dataclasses.replace(case, tensor=2), tmp_path)
    assert len(asked) == 2


def test_every_case_fills_its_machines():
    for chip in ("h100", "tpu_v5p"):
        found = scaling.cases(chip)
        assert [case.devices for case in found if case.layout == "fsdp"] == [1, 8, 64, 256]
        assert {case.layout for case in found if case.devices == 256} == set(scaling.LAYOUTS)
        for case in found:
            target = case.target
            sizes = target.topology.split(":")[-1].split("x")
            assert math.prod(map(int, sizes)) * target.slices == case.devices
            assert case.config().train.batch_rows == 2 * case.devices


def test_the_figures_of_a_case():
    case = scaling.Case("h100", 64, "fsdp")
    first = scaling.figures(scaling.Case("h100", 8, "fsdp"), dataclasses.replace(STEP, collectives=[]))
    row = scaling.figures(case, STEP)
    assert row["network_gb"] == pytest.approx(64 * 2**29 * 7 / 8 / 8 / 1e9)
    assert row["communication"] == pytest.approx(row["sent_gb"] * 1e9 / (CHIPS["h100"].link * 0.75))
    assert row["step_overlapped"] < row["step"] < row["step_in_turn"]
    assert row["step_in_turn"] == pytest.approx(row["computing"] + row["communication"])
    rows = scaling.with_efficiency([first, row, row | {"devices": 1}])
    assert [rows[0]["efficiency"], rows[2]["efficiency"]] == [1, None]
    assert rows[1]["efficiency"] == pytest.approx(first["step"] / row["step"])
    assert rows[1]["efficiency_in_turn"] < rows[1]["efficiency"] < 1
    assert "| h100 | 64 | fsdp 64 | 8.0 / 16.0 |" in scaling.table(rows)


def test_the_picture(tmp_path: Path):
    times = {"computing": 0.5, "communication": 0.6, "step": 0.65, "efficiency": 0.9}
    rows = [{"chip": case.chip, "devices": case.devices, "mesh": case.mesh} | times for case in scaling.cases("h100")]
    plot(tmp_path / "scaling.png", rows + [row | {"chip": "tpu_v5p"} for row in rows])
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_chip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["scaling", f"--out={tmp_path / 'out'}", "--chip=h10"])
    with pytest.raises(UserError, match="h100"):
        scaling.main()
    assert not (tmp_path / "out").exists()
