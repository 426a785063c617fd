"""What several processes tell each other while they work, by way of JAX's key-value store, which lives in process 0."""

import itertools
from typing import Any

_EXCHANGED, _POSTED = "alpaca_jax/exchanged/", "alpaca_jax/posted/"
# The longest that one process may be at work alone while the others wait: writing a tokenizer, drawing a picture.
ALONE_SECONDS = 600.0

_exchanges = itertools.count()


def heard_from_all(value: str) -> list[str]:
    """What each process brings here, in their order; all come here equally often."""
    state = distributed_state()
    if state.client is None:
        return [value]
    place = f"{_EXCHANGED}{next(_exchanges)}/"
    state.client.key_value_set(f"{place}{state.process_id}", value)
    milliseconds = int(ALONE_SECONDS * 1000)
    return [state.client.blocking_key_value_get(f"{place}{n}", milliseconds) for n in range(state.num_processes)]


def place_among_all() -> tuple[int, int]:
    """The number of this process, and how many there are; (0, 1) where none were joined."""
    state = distributed_state()
    return (0, 1) if state.client is None else (state.process_id, state.num_processes)


def post(board: str, value: str) -> None:
    """Puts a value on a board that all processes can read at any time; a process puts one on each board."""
    state = distributed_state()
    state.client.key_value_set(f"{_POSTED}{board}/{state.process_id}", value)


def posted(board: str) -> list[str]:
    """The values on a board."""
    return [value for _, value in distributed_state().client.key_value_dir_get(f"{_POSTED}{board}/")]


def distributed_state() -> Any:
    """What JAX itself knows of the processes; its `client` is None where none were joined."""
    # JAX has no public way to its key-value store and barriers; Orbax uses this one too.
    from jax._src import distributed

    return distributed.global_state
