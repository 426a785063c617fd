"""A real Slurm of two nodes on this machine's loopback, for as long as a test takes: own key, own ports, own folder."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/linear
SchedulerParameters=sched_interval=1
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=1000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running cluster; `command` gives what any program of Slurm printed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, *arguments: str, timeout: float = 60, **more: str) -> str:
        ended = subprocess.run(
            arguments, env=self.environment | more, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr, self.logs())
        return ended.stdout

    def submit(self, output: Path, *arguments: str, **more: str) -> str:
        """Submits a job and gives its number."""
        return self.command("sbatch", "--parsable", f"--output={output}", *arguments, **more).strip()

    def end_of(self, number: str, seconds: float = 240) -> dict[str, str]:
        """Waits for a job's end and gives what Slurm says of it, by name."""
        deadline = time.monotonic() + seconds
        while True:
            said = self.command("scontrol", "--oneliner", "show", "job", number)
            job = dict(word.split("=", 1) for word in said.split() if "=" in word)
            if job["JobState"] in ("COMPLETED", "FAILED"):
                return job
            assert time.monotonic() < deadline, (said, self.logs())
            time.sleep(0.5)

    def logs(self) -> str:
        return "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 characters
    daemons: list[subprocess.Popen] = []
    cluster = Slurm(folder)
    try:
        _configure(folder)
        for daemon in (
            _munged(folder),
            ["slurmctld", "-D", "-i", "-f", f"{folder}/slurm.conf"],
            *(["slurmd", "-D", "-N", node, "-f", f"{folder}/slurm.conf"] for node in ("n1", "n2")),
        ):
            daemons.append(_start(daemon, folder, cluster.environment))
            if daemon[0] == "munged":
                _wait_until((folder / "munge.socket").exists, cluster)
        _wait_until(lambda: cluster.command("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", cluster)
        yield cluster
    finally:
        # Jobs first, as their processes are not children of ours; then the daemons, in the opposite order.
        if len(daemons) == 4:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                cluster.command("scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full")
                _wait_until(lambda: not cluster.command("squeue", "-h").strip(), cluster)
        for process in reversed(daemons):
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder)


def _configure(folder: Path) -> None:
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    settings = _CONFIGURATION.format(
        host=host, ports=_free_ports(3), user=getpass.getuser(), folder=folder, cpus=os.cpu_count()
    )
    (folder / "slurm.conf").write_text(settings)


def _munged(folder: Path) -> list[str]:
    places = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    return ["munged", "--foreground", "--force", *(f"--{name}={folder}/{place}" for name, place in places.items())]


def _start(daemon: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    # Killed by the kernel if the test process is killed itself and cannot clean up.
    command = ["setpriv", "--pdeathsig=KILL", *daemon]
    with open(folder / f"{len(list(folder.glob('*.out.log')))}-{daemon[0]}.out.log", "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _wait_until(holds, cluster: Slurm, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(AssertionError):
            if holds():
                return
        assert time.monotonic() < deadline, cluster.logs()
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
