"""What the processes of a run tell each other: small JSON values, through the service that jax keeps for them.

Everything here is trivial for a process by itself. Every process must call the same functions in the same order.
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
    """Return jax's client of the coordination service, None for a process by itself."""
    return _state().client


def place() -> tuple[int, int]:
    """Return the number of this process and how many there are, without starting devices as jax's own question does."""
    return _state().process_id, _state().num_processes


def _state() -> Any:
    from jax._src import distributed  # jax has no public name for the store of keys and values

    return distributed.global_state


def is_first() -> bool:
    """Return whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Return what each process gave, in their order.

    Args:
        value: A JSON value.
    """
    if jax.process_count() == 1:
        return [value]
    key = f"genret/gathered/{next(_numbers)}"
    client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(_wait_for(f"{key}/{process}")) for process in range(jax.process_count())]


def from_first(produce: Callable[[], Any]) -> Any:
    """Let process 0 do something while the others wait, and return its result in all of them.

    Args:
        produce: Returns a JSON value; called in process 0 alone.

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
    told = json.loads(_wait_for(key))
    if "error" in told:
        raise InputError(**told["error"])
    return told["value"]


def _wait_for(key: str) -> str:
    """Wait as long as it takes: it is the heartbeat, not the clock, that tells a slow process from a dead one."""
    while True:
        try:
            return str(client().blocking_key_value_get(key, _PATIENCE_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
