"""Several processes that train as one: how they find each other, wait for each other, and end together.

What a launcher must say for that stands in `launch.py`; with nothing said there is one process, and nothing here does
anything.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from alpaca_jax.parallel.aborts import end_with_a_line_when_jax_aborts
from alpaca_jax.parallel.exchange import ALONE_SECONDS, distributed_state
from alpaca_jax.parallel.launch import Launch, asks_for_detection, number_in, read_launch
from alpaca_jax.parallel.roll_call import call_roll
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.program import EXIT_USER_ERROR, last_words
from alpaca_jax.support.progress import silence

if TYPE_CHECKING:
    from jax.sharding import NamedSharding

_JOIN_SECONDS = 300.0
_FAILED, _HEARD, _AGREED = "alpaca_jax/failed/", "alpaca_jax/heard/", "alpaca_jax/agreed/"
_SECONDS_BETWEEN_LOOKS = 0.5
# A process that JAX has not heard of for so long is taken for dead, and all others end.
_HEARTBEAT_SECONDS = 20
_SECONDS_UNTIL_JAX_ABORTS = 5
# A process that failed stays so long for the others to hear of it, and process 0, through which they hear, longer.
_FAREWELL_SECONDS = 10.0
_LAST_SECONDS = 0.5


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Makes this process one of several, if a launcher started several; to be entered before JAX is used.

    If one of them fails inside, all end: that one with its line and exit code, the others with a line that names it
    and the same code. Only process 0 says anything else on the terminal.

    Raises:
      UserError: what the launcher said makes no sense, or the others do not come in time.
    """
    seconds = float(number_in(os.environ, "ALPACA_JAX_JOIN_SECONDS", smallest=1) or _JOIN_SECONDS)
    automatic = asks_for_detection(os.environ)
    launch = None if automatic else read_launch(os.environ)
    if launch is None and not automatic:
        yield
        return
    # Before the roll, not after: whoever calls JAX's service before process 0 has started it waits for seconds.
    import jax  # noqa: F401

    if launch:
        call_roll(launch.place, seconds)
    _start(launch, seconds)
    end_with_a_line_when_jax_aborts()
    bond = _Bond()
    if bond.index:
        silence()
    try:
        yield
        bond.wait_for_the_others()
    except BaseException as error:
        bond.end_all(error)
    bond.loosen()


def _start(launch: Launch | None, seconds: float) -> None:
    """Starts JAX's own connection of the processes."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would catch SIGTERM and go on; that is for the trainer to do, which saves and says with its exit code that it
    # wants to be started again.
    jax.config.update("jax_enable_preemption_service", False)
    if launch:
        jax.distributed.initialize(
            launch.place.address,
            launch.place.count,
            launch.place.index,
            launch.local_device_ids,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
        return
    limit = threading.Timer(seconds, _end_unjoined, [seconds])
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(
            initialization_timeout=int(seconds) + 60, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            "ALPACA_JAX_CLUSTER=auto",
            expected="a TPU pod or GKE, where JAX finds the other processes by itself",
            found=shorten(str(error), 200),
            remedy="elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
        ) from error
    finally:
        limit.cancel()


def _end_unjoined(seconds: float) -> NoReturn:
    # JAX waits in C++ and, when its own time is over, aborts with a stack trace.
    error = UserError(
        f"process on {socket.gethostname()}",
        expected=f"all processes that JAX found to come within {seconds:g} s",
        found="some of them missing",
        remedy="start the same command on every worker",
    )
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(EXIT_USER_ERROR)


class _Bond:
    """A thread that learns from JAX's key-value store, which lives in process 0, when another process has failed."""

    def __init__(self) -> None:
        state = distributed_state()
        self._client, self.index, self._count = state.client, state.process_id, state.num_processes
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="other processes", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            if failed := self._first_failure():
                self._ending.acquire()
                who = f"process {failed['index']} of {self._count}, on {failed['host']}"
                self._end(failed["code"], f"error: {who}, failed: {failed['line']}\n")

    def _first_failure(self) -> dict[str, Any] | None:
        try:
            entries = self._client.key_value_dir_get(_FAILED)
        except Exception:  # process 0 is gone or does not answer, which JAX itself notices
            return None
        return json.loads(entries[0][1]) if entries else None

    def end_all(self, error: BaseException) -> NoReturn:
        """Ends this process as `run_program` would, and the others with it."""
        if isinstance(error, _jax_error()):
            # A computation fails too where another process has died, which JAX knows when a heartbeat is missing.
            time.sleep(_HEARTBEAT_SECONDS + _SECONDS_UNTIL_JAX_ABORTS)
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another failed first, and the thread that heard of it is ending this process
        code, words = last_words(error)
        line = words.strip().splitlines()[-1].removeprefix("error: ")
        report = {"index": self.index, "host": socket.gethostname(), "line": line, "code": code}
        with contextlib.suppress(Exception):  # the first to fail is the one that the others hear of
            self._client.key_value_set(f"{_FAILED}first", json.dumps(report))
        first = self._first_failure() or report
        # What all processes refuse for the same reason is said once.
        said = first["line"] == line and first["index"] != self.index
        self._end(code, "" if said else words)

    def _end(self, code: int, words: str) -> NoReturn:
        """Ends this process, whatever its main thread waits for, once the others know."""
        sys.stderr.write(words)
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_HEARD}{self.index}", "")
            deadline = time.monotonic() + _FAREWELL_SECONDS
            while len(self._client.key_value_dir_get(_HEARD)) < self._count and time.monotonic() < deadline:
                time.sleep(_SECONDS_BETWEEN_LOOKS / 5)
        if self.index == 0:
            time.sleep(_LAST_SECONDS)  # JAX aborts whoever is left when process 0 goes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def wait_for_the_others(self) -> None:
        """Returns when all have come this far, so that none leaves while another may still fail."""
        _wait("the end")

    def loosen(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()


def require_joined() -> None:
    """Refuses devices of several processes that have not been joined, as a TPU pod's are without its launcher.

    Raises:
      UserError: they have not.
    """
    import jax

    if jax.process_count() > 1 and distributed_state().client is None:
        raise UserError(
            "environment",
            expected=f"what joins the {jax.process_count()} processes of this TPU pod",
            found="none of it",
            remedy="set ALPACA_JAX_CLUSTER=auto, as launch/tpu_pod.sh does",
        )


def is_first() -> bool:
    """Whether this is process 0, the one that writes logs and talks."""
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when all processes are here.

    Args:
      name: of the place, used once in a run.
    """
    if distributed_state().client is not None:
        _wait(name)


def _wait(name: str) -> None:
    distributed_state().client.wait_at_barrier(f"alpaca_jax {name}", int(ALONE_SECONDS * 1000))


def require_agreement(subject: str, value: str, remedy: str) -> None:
    """Refuses to go on where a process has another value than process 0.

    Args:
      subject: what it is; used once in a run.
      value: this process's.
      remedy: as in `UserError`.

    Raises:
      UserError: they differ.
    """
    state = distributed_state()
    if state.client is None:
        return
    if state.process_id == 0:
        state.client.key_value_set(_AGREED + subject, value)
    first = state.client.blocking_key_value_get(_AGREED + subject, int(ALONE_SECONDS * 1000))
    if first != value:
        raise UserError(
            f"{subject} on {socket.gethostname()} (process {state.process_id})",
            expected=f"what process 0 has, {shorten(first)}",
            found=shorten(value),
            remedy=remedy,
        )


def rows_of_this_process(sharding: "NamedSharding") -> tuple[int, int]:
    """Which part of a batch's rows this process feeds to its devices: (index, count).

    Processes that hold the same rows (their devices differ along another axis of the mesh) have the same index.

    Args:
      sharding: of a batch, its rows first.

    Raises:
      UserError: the mesh divides the rows so that parts of two processes overlap without being the same.
    """
    import jax

    rows: dict[int, set[int]] = {}
    parts = sharding.num_devices
    device: Any  # JAX's stubs do not say what it is
    for device, (slices, *_) in sharding.devices_indices_map((parts,) + (parts,) * (len(sharding.spec) - 1)).items():
        rows.setdefault(device.process_index, set()).update(range(parts)[slices])
    distinct = sorted({tuple(sorted(held)) for held in rows.values()})
    if len({len(held) for held in distinct}) != 1 or sum(map(len, distinct)) != parts:
        raise UserError(
            "config.mesh",
            expected="sizes with which each process holds as many rows of a batch, and none a part of another's",
            found=f"{dict(sharding.mesh.shape)} over {jax.process_count()} processes",
            remedy="let data × fsdp, or what is left beside it, be a multiple of the devices of a process",
        )
    return distinct.index(tuple(sorted(rows[jax.process_index()]))), len(distinct)


def _jax_error() -> type[Exception]:
    import jax

    return jax.errors.JaxRuntimeError
