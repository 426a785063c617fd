"""Which attention kernel a device is given, and what is refused; the devices are described, not there."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alpaca_jax.model.attention_choice import Choice, Need, choose_attention
from alpaca_jax.model.attention_kernels import Kernel
from alpaca_jax.model.presets import preset
from alpaca_jax.support.errors import UserError

A100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100-SXM4-80GB", compute_capability="8.0")
H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0")
V100 = SimpleNamespace(platform="gpu", device_kind="Tesla V100-SXM2-16GB", compute_capability="7.0")
AMD = SimpleNamespace(platform="gpu", device_kind="AMD Instinct MI300X", compute_capability="gfx942")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
NEED = Need(preset("llama_7b"), 512, "bfloat16")


def choose(name: str, device: Any, context: int = 1, **changes: Any) -> Choice:
    mesh: Any = SimpleNamespace(devices=np.array([device]), shape={"context": context})
    return choose_attention(name, mesh, dataclasses.replace(NEED, **changes))


@pytest.mark.parametrize(
    ("device", "changes", "kernel", "reason"),
    [
        (CPU, {}, "xla", "the reference"),
        (A100, {}, "cudnn", "A100"),
        (H100, {"most_segments": 9}, "cudnn", "H100"),
        (TPU, {}, "splash", "TPU v5 lite"),
        (A100, {"dtype": "float32"}, "xla", "cudnn needs config.model.compute_dtype=bfloat16, found float32"),
        (V100, {}, "xla", "from A100"),
        (AMD, {}, "xla", "found AMD Instinct MI300X"),
        (TPU, {"seq_len": 500}, "xla", "splash needs a multiple of 128"),
        (TPU, {"seq_len": 256, "context": 4}, "xla", "found 64"),
    ],
)
def test_the_kernel_that_is_chosen(device, changes, kernel, reason):
    choice = choose("auto", device, **changes)
    assert choice.kernel == Kernel(kernel)
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("name", "device", "changes", "error"),
    [
        ("cudnn", CPU, {}, "gpu devices; found cpu"),
        ("splash", A100, {}, "tpu devices; found NVIDIA A100"),
        ("cudnn", A100, {"model": dataclasses.replace(NEED.model, head_dim=256)}, "up to 128.*found 256"),
        ("cudnn", H100, {"seq_len": 511}, "even number.*found 511"),
        ("cudnn_packed", A100, {"most_segments": 9}, "from H100.*found NVIDIA A100-SXM4-80GB"),
        ("cudnn_packed", H100, {"most_segments": 9, "context": 2}, "config.mesh.context=1"),
        ("cudnn_packed", H100, {}, "found a plan"),
        ("splash", TPU, {"dtype": "float32"}, "bfloat16; found float32"),
        ("flash", A100, {}, "config.model.attention"),
    ],
)
def test_a_kernel_that_cannot_do_it_is_refused(name, device, changes, error):
    with pytest.raises(UserError, match=error):
        choose(name, device, **changes)


def test_the_packed_layout_knows_the_most_segments():
    assert choose("cudnn_packed", H100, most_segments=9).kernel == Kernel("cudnn_packed", 9)
