"""Every shipped configuration, whole, compiled for every GPU target that it names: its memory, and what it sends.

No such GPU is here: the extra `plan` brings the compiler. TPU targets take minutes; `make plan-all` compiles those.
"""

import functools
import math
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model.presets import preset
from alpaca_jax.parallel.chips import TARGETS
from alpaca_jax.parallel.mesh import MESH_AXES
from alpaca_jax.planning.compiler import compile_step
from alpaca_jax.planning.devices import describe
from alpaca_jax.planning.shipped import shipped_pairs
from alpaca_jax.training.command_line import read_config

PAIRS = shipped_pairs(Path("configs"), "gpu")
described = functools.cache(lambda target: describe(TARGETS[target]))


def test_the_targets_of_every_machine_are_there():
    named = {target for _, target in PAIRS}
    assert {"a100x8", "a100_40gb_x8", "h100x8", "h200x1", "h200x8"} <= named
    assert len(PAIRS) > 20


@pytest.mark.parametrize(("name", "target"), PAIRS, ids=[":".join(pair) for pair in PAIRS])
def test_it_fits(name: str, target: str):
    config = read_config(f"configs/{name}.py:{target}", [])
    model = preset(config.model.preset)
    compiled = compile_step(config, TARGETS[target], model, described(target))
    assert compiled.fits, f"{compiled.peak / 2**30:.1f} of {compiled.limit / 2**30:.1f} GiB"
    assert {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"} <= compiled.kernels

    devices = TARGETS[target].devices
    sizes = {axis: config.mesh[axis] for axis in MESH_AXES}
    known = math.prod(size for size in sizes.values() if size > 0)
    sizes = {axis: devices // known if size < 0 else size for axis, size in sizes.items()}
    # Weights and two moments in float32, split over all but `data`; norms, of a few thousand numbers, are everywhere.
    norms = (2 * model.num_layers + 1) * model.hidden_size
    parts = devices // sizes["data"]
    weights = 12 * ((model.num_parameters - norms) // parts + norms)
    counters = 3 * 4  # updates done: the state's, Adam's and the schedule's
    row = config.data.seq_len * sum(np.dtype(dtype).itemsize for dtype in ROW_DTYPES.values())
    batch = config.train.batch_rows // (sizes["data"] * sizes["fsdp"]) * row
    assert compiled.state == weights + counters + batch
    # The next state is written over this one, so that the peak holds one.
    assert compiled.donated == weights + counters

    if sizes["tensor"] == 1 and sizes["fsdp"] > 1:
        _check_what_fsdp_sends(compiled, model.num_parameters, sizes["fsdp"], config)


def _check_what_fsdp_sends(compiled, parameters: int, fsdp: int, config) -> None:
    """Weights in bfloat16, gathered for the way forward and for the way back, and their gradients scattered; of the
    activations, which would be as much again, nothing."""
    sent = dict.fromkeys(("all-gather", "reduce-scatter", "all-reduce"), 0.0)
    for one in compiled.collectives:
        sent[one.kind] += one.sent()
    once = config.train.microbatches * 2 * parameters * (fsdp - 1) / fsdp
    assert 1.7 * once < sent["all-gather"] < 2.1 * once
    assert 0.9 * once < sent["reduce-scatter"] < 1.2 * once
    assert sent["all-reduce"] < 0.02 * once
