"""Every test runs on eight virtual CPU devices, with the shapes and types of the model's functions checked."""

import os
import signal
from pathlib import Path

# Before JAX starts. Sharding is thus real in every test; no test chooses its devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

# A shell gives its background jobs a deaf ear for Ctrl-C, which the programs that tests interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from jaxtyping import install_import_hook

from alpaca_jax.parallel.compiler_options import set_environment

set_environment()  # as the programs do; the tests compile more than they compute

# Before the modules are imported: their annotations become checks.
_CHECKED = ("model.rope", "model.attention", "model.cache", "model.llama", "training.loss", "generation.sampling")
install_import_hook([f"alpaca_jax.{name}" for name in _CHECKED], "beartype.beartype")

pytest_plugins = ["tests.browser", "tests.openai_server", "tests.making"]  # their fixtures


# Each is minutes of runs that wait for one another: begun last, they would leave a processor idle meanwhile.
_LONGEST = ("test_fault_campaign.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all others in the order in which they were found."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def packed_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded records in rows of 128, some held out."""
    from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
    from alpaca_jax.data.preparation import Request, prepare

    folder = tmp_path_factory.mktemp("rows") / "packed"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=128, eval_fraction=0.1), folder)
    return folder


@pytest.fixture(scope="session")
def one_process_run(packed_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six updates by one process, saved after each second: what several processes are compared with."""
    from tests.programs import run
    from tests.runs import train_flags

    workdir = tmp_path_factory.mktemp("one_process") / "run"
    code, _, err = run("train", *train_flags(packed_rows, workdir, "--config.train.steps=6"))
    assert code == 0, err
    return workdir
