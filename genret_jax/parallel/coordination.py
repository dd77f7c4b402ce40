"""Exchange of small JSON values between the processes of a run, through jax's coordination service.

A single process gets its own values back. Every process must call the same functions in the same order.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax

from genret_jax.errors import InputError

_PATIENCE_MILLISECONDS = 60_000
_numbers = itertools.count()


def client() -> Any:
    """Return jax's client of the coordination service, None for a single process."""
    return _state().client


def place() -> tuple[int, int]:
    """Return the number of this process and of all processes; unlike ``jax.process_index``, start no devices."""
    return _state().process_id, _state().num_processes


def _state() -> Any:
    from jax._src import distributed  # jax has no public name for the store of keys and values

    return distributed.global_state


def is_first() -> bool:
    """Return whether this is process 0, which writes the files of a run."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of the processes.

    Args:
        value: This process's JSON value.
    """
    if jax.process_count() == 1:
        return [value]
    key = f"genret/gathered/{next(_numbers)}"
    client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(_wait_for(f"{key}/{process}")) for process in range(jax.process_count())]


def from_first(produce: Callable[[], Any]) -> Any:
    """Call a function in process 0 alone, and return its result in every process.

    Args:
        produce: Returns a JSON value.

    Raises:
        InputError: In every process, if it was raised in process 0.
    """
    if jax.process_count() == 1:
        return produce()
    key = f"genret/from_first/{next(_numbers)}"
    if is_first():
        try:
            value = produce()
        except InputError as error:
            client().key_value_set(key, json.dumps({"error": error.fields()}))
            raise
        client().key_value_set(key, json.dumps({"value": value}))
        return value
    received = json.loads(_wait_for(key))
    if "error" in received:
        raise InputError(**received["error"])
    return received["value"]


def _wait_for(key: str) -> str:
    """Wait without a limit for a key: the heartbeat, not the clock, tells a slow process from a dead one."""
    while True:
        try:
            return str(client().blocking_key_value_get(key, _PATIENCE_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
