"""`launch/slurm.sh` under a real Slurm: two nodes on loopback, each with four CPU devices, train together."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.launch.slurm_cluster import Slurm, slurm_cluster
from tests.programs import run
from tests.runs import TIMED, lines_of, parameters_of, train_flags, wait_for_lines

# Debian's packages slurm-wlm and munge bring them; `.ci/run` installs these where it may.
_NEEDED = ("slurmctld", "slurmd", "munged", "setpriv")
pytestmark = pytest.mark.skipif(not all(map(shutil.which, _NEEDED)), reason=f"needs {', '.join(_NEEDED)} on PATH")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm_cluster() as running:
        yield running


def submit(cluster: Slurm, output: Path, *flags: str, nodes: int = 2) -> str:
    return cluster.submit(output, f"--nodes={nodes}", "launch/slurm.sh", *flags, PYTHON=sys.executable)


def run_job(cluster: Slurm, output: Path, *flags: str) -> tuple[int, str]:
    """The exit code of a job and what it wrote."""
    job = cluster.end_of(submit(cluster, output, *flags))
    return int(job["ExitCode"].split(":")[0]), output.read_text()


def test_two_nodes_train_as_one_process(cluster: Slurm, one_process_run: Path, packed_rows: Path, tmp_path: Path):
    flags = train_flags(packed_rows, tmp_path / "run", "--config.train.steps=4", "--config.mesh.cpu_devices=4")
    code, said = run_job(cluster, tmp_path / "job.log", *flags)
    assert code == 0, said
    ours, alone = lines_of(tmp_path / "run" / "metrics.jsonl"), lines_of(one_process_run / "metrics.jsonl")[:4]
    for name in ("step", "loss", "grad_norm", "target_tokens"):
        np.testing.assert_allclose([line[name] for line in ours], [line[name] for line in alone], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        parameters_of(tmp_path / "run"),
        parameters_of(one_process_run, step=4),
    )


def test_what_train_refuses_fails_the_job_with_its_line(cluster: Slurm, packed_rows: Path, tmp_path: Path):
    flags = train_flags(packed_rows, tmp_path / "run", "--config.mesh.cpu_devices=4", "--config.mesh.fsdp=3")
    code, said = run_job(cluster, tmp_path / "job.log", *flags)
    assert code == 2, said
    assert "error: config.mesh: expected sizes that multiply to the 8 devices here" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_preempted_job_is_requeued_and_goes_on_to_the_same_result(cluster: Slurm, packed_rows: Path, tmp_path: Path):
    flags = train_flags(packed_rows, tmp_path / "run", "--config.train.steps=20", "--config.mesh.cpu_devices=8")
    number = submit(cluster, tmp_path / "job.log", *flags, nodes=1)
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 1)
    cluster.command("scancel", "--signal=TERM", number)
    job, said = cluster.end_of(number), (tmp_path / "job.log").read_text()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), said
    stopped = re.search(r"stopped by SIGTERM after update (\d+), which is saved", said)
    assert stopped, said
    assert f"Going on after update {stopped[1]}" in said
    flags = train_flags(packed_rows, tmp_path / "alone", "--config.train.steps=20", "--config.checkpoint.every=100")
    assert run("train", *flags)[0] == 0
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines_of(tmp_path / "run" / name, TIMED) == lines_of(tmp_path / "alone" / name, TIMED)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(tmp_path / "run"), parameters_of(tmp_path / "alone"))
