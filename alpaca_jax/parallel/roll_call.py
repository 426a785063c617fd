"""Before several processes start as one, process 0 calls the roll, so that whoever is missing can be named.

JAX itself waits in its own library, where a process that never comes ends the others with a stack trace of C++ and no
word of who it was. Here process 0 listens at the address that JAX will use afterwards; each of the others connects and
says its number, and waits for one line: that all are there, or what is wrong.
"""

import dataclasses
import json
import os
import socket
import time

from alpaca_jax.support.errors import UserError, shorten

# The others allow process 0 this much longer, so that it is process 0, which knows who is missing, that speaks first.
_PATIENCE_SECONDS = 5.0
_SECONDS_BETWEEN_TRIES = 0.2
_LONGEST_LINE = 4096


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among all.

    Attributes:
      address: HOST:PORT of process 0.
      count: how many processes there are.
      index: the number of this one, from 0.
    """

    address: str
    count: int
    index: int


def call_roll(place: Place, seconds: float) -> None:
    """Returns when all processes are there, in every one of them at once.

    Raises:
      UserError: not all came within `seconds`, they do not agree on their number, or the address does not serve.
    """
    deadline = time.monotonic() + seconds
    if place.index:
        _answer(place, seconds, deadline + _PATIENCE_SECONDS)
    else:
        _call(place, seconds, deadline)


def _call(place: Place, seconds: float, deadline: float) -> None:
    """Process 0's part: hears the others, then tells them all the same."""
    present: dict[int, socket.socket] = {}
    try:
        with _listen(place.address) as listener:
            fault = _hear(place, listener, present, deadline)
        if fault is None and (missing := sorted(set(range(1, place.count)) - present.keys())):
            fault = {
                "subject": f"process {', '.join(map(str, missing))} of {place.count}",
                "expected": f"at {place.address} within {seconds:g} s",
                "found": "nothing of it",
                "remedy": "look at its own output, and whether it reaches that address",
            }
        for connection in present.values():
            _say(connection, fault)
    finally:
        for connection in present.values():
            connection.close()
    if fault:
        raise _error(fault)


def _hear(
    place: Place, listener: socket.socket, present: dict[int, socket.socket], deadline: float
) -> dict[str, str] | None:
    """Fills `present` until all are there or the time is over; returns what is wrong with somebody who came."""
    while len(present) < place.count - 1 and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return None
        said = _hear_one(connection)
        if said is None:  # no process of ours: somebody looked which ports are open
            connection.close()
            continue
        index, count, host = said
        if count == place.count and 0 < index < count and index not in present:
            present[index] = connection
            continue
        present[-1] = connection  # it is told too
        return {
            "subject": f"process {index} on {host}",
            "expected": f"numbers from 1 to {place.count - 1}, each once, of {place.count} processes",
            "found": f"number {index} of {count}" + (" a second time" if index in present else ""),
            "remedy": "give each process its own number and all of them the same count",
        }
    return None


def _hear_one(connection: socket.socket) -> tuple[int, int, str] | None:
    connection.settimeout(_PATIENCE_SECONDS)
    try:
        said = json.loads(_read_line(connection))
        return int(said["index"]), int(said["count"]), str(said["host"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _answer(place: Place, seconds: float, deadline: float) -> None:
    """The part of all others: says who it is, and waits for the word of process 0."""
    connection, reason = None, "no answer"
    while connection is None:
        try:
            connection = socket.create_connection(_split(place.address), timeout=max(1.0, deadline - time.monotonic()))
        except OSError as error:  # process 0 may start later, and a name may become known later
            reason = (error.strerror or str(error)).lower()
            if time.monotonic() + _SECONDS_BETWEEN_TRIES > deadline:
                raise _unreachable(place, seconds, reason) from error
            time.sleep(_SECONDS_BETWEEN_TRIES)
    with connection:
        try:
            _say(connection, {"index": place.index, "count": place.count, "host": socket.gethostname()})
            connection.settimeout(max(1.0, deadline - time.monotonic()))
            fault = json.loads(_read_line(connection))
        except (OSError, ValueError) as error:
            raise _unreachable(place, seconds, "a connection that gave no answer") from error
    if fault:
        raise _error(fault)


def _listen(address: str) -> socket.socket:
    """A socket at the port of the address, on all of this machine's interfaces, as JAX's own will be."""
    _, port = _split(address)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        raise UserError(
            "JAX_COORDINATOR_ADDRESS",
            expected=f"a port that is free on {socket.gethostname()}, where process 0 runs",
            found=f"{address}, {os.strerror(error.errno or 0).lower()}",
            remedy="choose another port",
        ) from error


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _read_line(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        part = connection.recv(_LONGEST_LINE)
        said += part
        if not part or len(said) > _LONGEST_LINE:
            raise ValueError("no line")
    return said


def _say(connection: socket.socket, value: object) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _unreachable(place: Place, seconds: float, reason: str) -> UserError:
    return UserError(
        f"process {place.index} of {place.count} on {socket.gethostname()}",
        expected=f"to reach process 0 at {place.address} within {seconds:g} s",
        found=reason,
        remedy="check that process 0 has started and that JAX_COORDINATOR_ADDRESS leads to it from here",
    )


def _error(fault: dict[str, str]) -> UserError:
    try:
        return UserError(**{name: str(fault[name]) for name in ("subject", "expected", "found", "remedy")})
    except (KeyError, TypeError):
        return UserError(
            "process 0",
            expected="an answer to the roll call",
            found=shorten(fault),
            remedy="run the same version in all",
        )
