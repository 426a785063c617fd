"""Options for the compiler: none where there is nothing to say, and none over what the user said."""

import os

import jax
import pytest

from alpaca_jax.parallel.chips import CHIPS
from alpaca_jax.parallel.compiler_options import compiler_options, set_environment


def test_each_chip_gets_options_of_its_own_platform():
    assert compiler_options(None) == {}
    for chip in CHIPS.values():
        assert all(name.startswith(f"xla_{chip.platform}_") for name in compiler_options(chip))
    assert compiler_options(CHIPS["a100_80gb"])
    assert compiler_options(CHIPS["tpu_v6e"]) != compiler_options(CHIPS["tpu_v5e"])


def test_this_xla_knows_the_options():
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    lowered.compile(compiler_options=compiler_options(CHIPS["h100"]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={"xla_gpu_no_such_option": True})


def test_the_environment_stays_as_the_user_set_it(monkeypatch: pytest.MonkeyPatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "NCCL_NVLS_ENABLE", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_environment()
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.92"
    ours = os.environ["XLA_FLAGS"]
    assert ours.startswith("--xla_backend_extra_options=")
    set_environment()
    assert os.environ["XLA_FLAGS"] == ours
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    set_environment()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_max_isa=AVX2 {ours}"
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_extra_options=")
    set_environment()
    assert os.environ["XLA_FLAGS"] == "--xla_backend_extra_options="

    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    set_environment()
    assert os.environ["NCCL_NVLS_ENABLE"] == "0"
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ
