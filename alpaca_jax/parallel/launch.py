"""What the environment says of this process, where a launcher has started several that are to train as one.

The folder `launch/` holds launchers for Slurm, TPU pods, GKE and SkyPilot. With nothing set there is one process.

    JAX_COORDINATOR_ADDRESS   HOST:PORT at which all reach process 0
    JAX_NUM_PROCESSES         how many there are; under `srun` it need not be set
    JAX_PROCESS_ID            the number of this one, from 0; under `srun` it need not be set
    ALPACA_JAX_CLUSTER=auto   instead of these three, on TPU pods and GKE: JAX finds out by itself
    ALPACA_JAX_JOIN_SECONDS   how long to wait for all to come (300)

A process is one a host with all its devices, or one a GPU: under Slurm as many as there are tasks on a node, elsewhere
as JAX_LOCAL_DEVICE_IDS says.
"""

import dataclasses
import re
from collections.abc import Mapping

from alpaca_jax.parallel.roll_call import Place
from alpaca_jax.support.errors import UserError, shorten


@dataclasses.dataclass(frozen=True)
class Launch:
    """What the launcher said: the place of this process, and its devices (None: all of its machine)."""

    place: Place
    local_device_ids: list[int] | None


def read_launch(environment: Mapping[str, str]) -> Launch | None:
    """What the environment says of this process; None where it is the only one.

    Raises:
      UserError: a part of what is needed is missing, or is no number.
    """
    # `srun` sets the STEP's count; SLURM_NTASKS also stands in a batch script's own environment, which is one process.
    count = number_in(environment, "JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", smallest=1)
    address = environment.get("JAX_COORDINATOR_ADDRESS", "")
    if count is None and address:
        raise _missing("JAX_NUM_PROCESSES, since JAX_COORDINATOR_ADDRESS is set")
    if count is None or count == 1:
        return None
    index = number_in(environment, "JAX_PROCESS_ID", "SLURM_PROCID", smallest=0)
    if index is None:
        raise _missing(f"JAX_PROCESS_ID, the number of this one of {count} processes")
    if index >= count:
        raise UserError(
            "JAX_PROCESS_ID", expected=f"a number below {count}", found=str(index), remedy="count the processes from 0"
        )
    if not re.fullmatch(r"\S+:[0-9]{1,5}", address):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS",
            expected=f"HOST:PORT, at which all {count} processes reach process 0",
            found=shorten(address) if address else "nothing",
            remedy="set it as launch/slurm.sh does",
        )
    return Launch(Place(address, count, index), _slurm_devices(environment))


def _slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """One GPU for each task, where Slurm runs several on a node and has not divided the GPUs itself."""
    tasks_per_node = re.split(r"\(x\d+\)|,", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if all(tasks in ("", "1") for tasks in tasks_per_node) or (visible is not None and "," not in visible):
        return None
    return [int(environment["SLURM_LOCALID"])]


def number_in(environment: Mapping[str, str], *names: str, smallest: int) -> int | None:
    """The first of these variables that is set, as a whole number; None where none is.

    Raises:
      UserError: it is no number, or a smaller one.
    """
    for name in names:
        if value := environment.get(name):
            if value.isascii() and value.isdigit() and int(value) >= smallest:
                return int(value)
            raise UserError(name, expected=f"a whole number from {smallest}", found=shorten(value), remedy="correct it")
    return None


def _missing(what: str) -> UserError:
    return UserError("environment", expected=what, found="none", remedy="see alpaca_jax/parallel/launch.py")


def asks_for_detection(environment: Mapping[str, str]) -> bool:
    """Whether the launcher leaves it to JAX to find the other processes.

    Raises:
      UserError: the variable has another value than `auto`.
    """
    value = environment.get("ALPACA_JAX_CLUSTER", "")
    if value not in ("", "auto"):
        raise UserError("ALPACA_JAX_CLUSTER", expected="auto, or nothing", found=shorten(value), remedy="correct it")
    return value == "auto"
