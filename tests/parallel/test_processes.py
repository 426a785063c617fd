"""Several processes: how they find each other, train as one, and end together."""

import json
import re
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from alpaca_jax.parallel.launch import asks_for_detection, read_launch
from alpaca_jax.parallel.mesh import batch_sharding, make_mesh
from alpaca_jax.parallel.processes import rows_of_this_process
from alpaca_jax.parallel.roll_call import Place, call_roll
from alpaca_jax.support.errors import UserError
from alpaca_jax.training import run as training_run
from tests.parallel.several import free_port, run_together
from tests.programs import run
from tests.runs import lines_of, parameters_of, train_flags

ADDRESS = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}
SLURM_STEP = ADDRESS | {"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1"}


def test_nothing_set_is_one_process():
    assert read_launch({}) is None
    assert read_launch({"JAX_NUM_PROCESSES": "1"}) is None
    # A batch script of Slurm's, which no `srun` started, and a step of one task.
    assert read_launch({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}) is None
    assert read_launch({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


def test_variables_give_a_place():
    launch = read_launch(ADDRESS | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"})
    assert launch.place == Place("10.0.0.1:1234", 4, 3)
    assert launch.local_device_ids is None


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, None),  # a process a host has all its GPUs
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, [1]),  # a process a GPU
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "5"}, None),  # Slurm has divided them
    ],
)
def test_slurm_gives_a_place_and_devices(more: dict[str, str], devices: list[int] | None):
    launch = read_launch(SLURM_STEP | more)
    assert launch.place == Place("10.0.0.1:1234", 16, 9)
    assert launch.local_device_ids == devices


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (ADDRESS, "JAX_NUM_PROCESSES"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "HOST:PORT"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "launch/slurm.sh"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"} | ADDRESS, "below 2"),
        ({"JAX_NUM_PROCESSES": "two"} | ADDRESS, "'two'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "host"}, "HOST:PORT"),
    ],
)
def test_a_launch_that_makes_no_sense_is_one_line(environment: dict[str, str], says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        read_launch(environment)


def test_jax_finds_the_others_only_where_it_is_asked_to():
    assert not asks_for_detection({})
    assert asks_for_detection({"ALPACA_JAX_CLUSTER": "auto"})
    with pytest.raises(UserError, match="'slurm'"):
        asks_for_detection({"ALPACA_JAX_CLUSTER": "slurm"})


def roll(places: list[Place], seconds: float) -> list[str]:
    """What each of these hears, all calling at once; empty where all is well."""
    heard = [""] * len(places)

    def call(number: int) -> None:
        try:
            call_roll(places[number], seconds)
        except UserError as error:
            heard[number] = str(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def test_the_roll_is_called_and_the_missing_are_named():
    address = f"127.0.0.1:{free_port()}"
    assert roll([Place(address, 3, index) for index in range(3)], 30) == ["", "", ""]

    heard = roll([Place(address, 4, index) for index in (0, 2)], 1)
    assert heard[0] == heard[1]
    assert heard[0].startswith(f"process 1, 3 of 4: expected at {address} within 1 s; found nothing")

    heard = roll([Place(address, 3, index) for index in (0, 1, 1)], 30)
    assert heard[0].startswith("process 1 on ")
    assert "a second time" in heard[0]
    assert heard == [heard[0]] * 3

    assert "number 1 of 3" in roll([Place(address, 2, 0), Place(address, 3, 1)], 30)[1]


def test_a_roll_that_cannot_be_called_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("alpaca_jax.parallel.roll_call._PATIENCE_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    assert f"to reach process 0 at {address} within 1 s; found connection refused" in roll([Place(address, 2, 1)], 1)[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use. Choose another port." in roll([Place(f"127.0.0.1:{port}", 2, 0)], 1)[0]


def test_a_stranger_at_the_port_disturbs_nobody():
    port = free_port()

    def knock() -> None:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return
            except ConnectionRefusedError:
                pass

    first = threading.Thread(target=call_roll, args=(Place(f"127.0.0.1:{port}", 2, 0), 30))
    first.start()
    knock()
    call_roll(Place(f"127.0.0.1:{port}", 2, 1), 30)
    first.join()


@pytest.mark.parametrize(
    ("case", "code", "says"),
    [
        ("before the devices", 2, "error: the flag: expected a; found b. Give a."),
        ("in a computation", 1, "ValueError: a bug"),
        ("all alike", 2, "error: the flag: expected a; found b. Give a."),
        ("another value", 2, "expected what process 0 has, 'this'; found 'that'."),
    ],
)
def test_when_one_fails_all_end_with_its_line(case: str, code: int, says: str):
    ended = run_together(2, "-m", "tests.parallel.together", case)
    assert [exit for exit, _ in ended] == [code, code], ended
    lines = [line for _, err in ended for line in err.splitlines() if not line.startswith(("Traceback", " "))]
    assert any(says in line for line in lines)
    others = [line for line in lines if " of 2, on " in line]
    failed = 0 if case == "in a computation" else 1
    if case == "all alike":
        assert len(lines) in (1, 2)  # the second hears of the first, or finds that the same was said
    else:
        assert len(others) == 1
        assert others[0].startswith(f"error: process {failed} of 2, on ")
        assert len(lines) == 2


def test_one_process_then_two_then_one_is_one_undisturbed(one_process_run: Path, packed_rows: Path, tmp_path: Path):
    """Two processes × 4 devices, which share the rows and split their positions, continue a run of one × 8."""
    workdir = tmp_path / "run"
    shutil.copytree(one_process_run, workdir)
    for later in ("4", "6"):
        shutil.rmtree(workdir / "checkpoints" / later)

    mesh = ("--config.mesh.cpu_devices=4", "--config.mesh.fsdp=1", "--config.mesh.context=4")
    question = ("--config.samples.instructions=('Who painted Guernica?',)", "--config.samples.max_new_tokens=2")
    flags = train_flags(packed_rows, workdir, "--config.train.steps=4", *mesh, *question)
    ended = run_together(2, "-m", "alpaca_jax.train", *flags)
    assert [code for code, _ in ended] == [0, 0], ended
    assert "Going on after update 2" in ended[0][1]
    for words in ("configuration", "training"):
        assert words in ended[0][1]
        assert words not in ended[1][1]  # one speaks for all
    assert json.loads((workdir / "run.json").read_text())["devices"] == "8 × cpu"
    asked = ("--instruction=Who painted Guernica?", "--temperature=0", "--max_new_tokens=2", "--dtype=float32")
    answer = run("generate", f"--checkpoint={workdir}", *asked)[1].removesuffix("\n")
    assert lines_of(workdir / "samples.jsonl") == [{"step": 4, "answers": {"Who painted Guernica?": answer}}]

    code, _, err = run("train", *train_flags(packed_rows, workdir, "--config.train.steps=6"))
    assert code == 0, err
    assert "Going on after update 4" in err
    for name, value in (("metrics.jsonl", "loss"), ("evaluations.jsonl", "eval_loss")):
        ours, undisturbed = lines_of(workdir / name), lines_of(one_process_run / name)
        assert [line["step"] for line in ours] == [line["step"] for line in undisturbed]
        np.testing.assert_allclose([line[value] for line in ours], [line[value] for line in undisturbed], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        parameters_of(workdir),
        parameters_of(one_process_run),
    )


def test_one_process_feeds_all_rows():
    mesh = make_mesh({"data": 2, "fsdp": 2, "context": 2})
    assert rows_of_this_process(batch_sharding(mesh)) == (0, 1)


def test_a_work_directory_that_is_not_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training_run, "_SECONDS_TO_BE_SEEN", 0)
    elsewhere = SimpleNamespace(workdir=tmp_path, checkpoints=tmp_path / "checkpoints")
    with pytest.raises(UserError, match="a folder that all processes share"):
        training_run.require_shared(elsewhere)
