"""The files of `launch/`: shell that shellcheck accepts, JobSets that Kubernetes knows, flags that `train` takes.

`skypilot.yaml` is checked by SkyPilot itself only by hand, as it brings some fifty packages:
`uv run --no-project --with skypilot python -c "import sky; sky.Task.from_yaml('launch/skypilot.yaml')"`.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpaca_jax.training.command_line import read_config, split_config_flags

LAUNCH = Path("launch")
FILES = sorted(LAUNCH.iterdir())
_PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def shellcheck(script: str) -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_all_launchers_are_there():
    assert [file.name for file in FILES] == ["gke.yaml", "local.sh", "skypilot.yaml", "slurm.sh", "tpu_pod.sh"]


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_pass_shellcheck(path: Path):
    shellcheck(path.read_text())
    assert path.stat().st_mode & 0o111


def test_shellcheck_finds_faults():
    with pytest.raises(AssertionError, match="SC2086"):
        shellcheck("#!/bin/bash\nls $1\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_starts_train_once_on_a_configuration_that_exists(path: Path):
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert len(re.findall(r"(-m|-) alpaca_jax\.train", code)) == 1
    named = re.findall(r"configs/\w+\.py:\w+", text)
    assert named
    for config in named:
        assert read_config(config, []).mesh.platform in ("gpu", "tpu")


def not_kept(given: Any, kept: Any, place: str = "") -> list[str]:
    """Where `kept` lacks what was given, or has another value."""
    if isinstance(given, dict):
        known = given.keys() & kept
        faults = [f"{place}.{key}" for key in given.keys() - known]
        return faults + [fault for key in known for fault in not_kept(given[key], kept[key], f"{place}.{key}")]
    if isinstance(given, list):
        return [fault for pair in zip(given, kept, strict=True) for fault in not_kept(*pair, f"{place}[]")]
    return [] if given == kept else [place]


def test_gke_is_a_job_set_with_no_field_unknown():
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    given = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert given["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert not_kept(given, JobsetV1alpha2JobSet.from_dict(given).to_dict()) == []

    (job,) = given["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    hosts = job["template"]["spec"]["parallelism"]
    assert hosts == job["template"]["spec"]["completions"]
    assert hosts * container["resources"]["limits"]["google.com/tpu"] == rows * columns
    others, changes = split_config_flags(container["command"][3:])
    assert others[1].startswith("--workdir=")
    read_config(others[0].removeprefix("--config="), changes)

    container["workDir"] = container.pop("workingDir")
    assert not_kept(given, JobsetV1alpha2JobSet.from_dict(given).to_dict())


def test_skypilot_runs_what_shellcheck_accepts():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() == {"name", "num_nodes", "workdir", "resources", "file_mounts", "envs", "setup", "run"}
    variables = "".join(f"export {name}\n" for name in ("SKYPILOT_NODE_IPS", *_PLACE, *task["envs"]))
    shellcheck(variables + task["setup"] + task["run"])


def test_skypilot_gives_each_node_its_place(tmp_path: Path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/bash\necho {' '.join(f'${name}' for name in _PLACE)} $4\n")
    python.chmod(0o755)
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    said = subprocess.run(
        ["bash", "-eu", "-c", task["run"]],
        cwd=tmp_path,
        env=task["envs"] | nodes | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"10.0.0.7:61440 2 1 --workdir={task['envs']['WORKDIR']}\n"


def test_tpu_pod_quotes_the_flags_for_the_other_shell(tmp_path: Path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    gcloud.chmod(0o755)
    flag = "--config.samples.instructions=('It is; so?',)"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TPU": "pod", "ZONE": "here"}
    said = subprocess.run(
        ["launch/tpu_pod.sh", flag], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"--worker=all", "--zone=here", "pod"} <= set(said)
    command = said[-1].removeprefix("--command=")
    script = re.sub(r"^.*alpaca_jax\.train", "printf %s", command)
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == flag
    assert "ALPACA_JAX_CLUSTER=auto" in command


def test_local_passes_everything_on():
    environment = {"PYTHON": "/bin/echo", "PATH": "/usr/bin:/bin"}
    command = ["launch/local.sh", "--workdir=a b"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "-m alpaca_jax.train --workdir=a b\n"
