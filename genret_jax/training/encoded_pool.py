"""A pool of training examples whose encoder states are computed once, for runs that keep the encoder as it is."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genret_jax.data.examples.sampler import Sampler
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.network import T5
from genret_jax.storage import fingerprint, load_arrays, save_arrays

KIND, VERSION = "encoded_pool", 1
STATES = "encoder_states"
_STATE = "state"  # the row of each example among the states of distinct inputs
MOST_BYTES = 4 << 30


class EncodedPool:
    """Draws batches from a fixed pool of examples, in another order every time it has been through them.

    Args:
        folder: From :func:`write_pool`.
        seed: Seed of the order.
        batch_size: Rows of a batch.
    """

    def __init__(self, folder: str | os.PathLike[str], *, seed: int, batch_size: int):
        arrays, _ = load_arrays(folder, kind=KIND, version=VERSION)
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._states, self._state = self._arrays.pop(STATES), self._arrays.pop(_STATE)
        self._seed, self.batch_size, self._count = seed, batch_size, len(self._state)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the examples of a step, or some rows of them, with their ``encoder_states`` in float16."""
        numbers = step * self.batch_size + (np.arange(self.batch_size) if rows is None else rows)
        rounds, places = np.divmod(numbers, self._count)
        chosen = np.array([self._order(int(turn))[place] for turn, place in zip(rounds, places, strict=True)])
        found = {name: array[chosen] for name, array in self._arrays.items()}
        return {**found, STATES: self._states[self._state[chosen]]}

    @functools.lru_cache(maxsize=3)  # noqa: B019  a pool lives as long as its run
    def _order(self, turn: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng([self._seed, turn]).permutation(self._count)


def write_pool(
    folder: Path, sampler: Sampler, count: int, params: Mapping[str, Any], config: T5Config, *, made_of: str
) -> None:
    """Draw examples, encode their texts, each once, and write both.

    Args:
        folder: Folder to make.
        sampler: Draws the examples, as for the first steps of a run.
        count: Number of examples, rounded up to whole batches.
        params: Parameters of the network; only those of the encoder are read.
        config: The network.
        made_of: From :func:`pool_fingerprint`; stored, so that the pool is known again.

    Raises:
        InputError: If the states would take more than 4 GiB, or the disk is full.
    """
    from tqdm import tqdm

    batches = [sampler.batch(step) for step in range(-(-count // sampler.batch_size))]
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    inputs, state = np.unique(arrays["encoder_input_tokens"], axis=0, return_inverse=True)
    encode = jax.jit(functools.partial(T5(config).apply, method=T5.encode))
    of_encoder = {"params": {"encoder": jax.device_put(params["encoder"])}}
    shape = jax.eval_shape(encode, of_encoder, inputs[:1]).shape[1:]
    needed = 2 * len(inputs) * int(np.prod(shape))
    if needed > MOST_BYTES:
        fit = count * MOST_BYTES // needed
        raise InputError(
            f"encoder states of {count:,} examples take {needed / 2**30:.1f} GiB",
            expected=f"at most {MOST_BYTES >> 30} GiB, which about {fit:,} examples take",
            fix=f"set Experiment.pool to at most {fit:,}",
        )
    states = np.empty((len(inputs), *shape), np.float16)  # the one large array, so it exists once
    size = sampler.batch_size
    for start in tqdm(range(0, len(inputs), size), desc="encoding examples", unit="batch", leave=False, delay=2):
        some = inputs[start : start + size]
        full = np.pad(some, ((0, size - len(some)), (0, 0)))  # the last batch compiles nothing
        states[start : start + size] = encode(of_encoder, full)[: len(some)]
    arrays |= {STATES: states, _STATE: state.reshape(-1).astype(np.int32)}
    save_arrays(folder, arrays, kind=KIND, version=VERSION, replace=True, details={"made_of": made_of})


def pool_fingerprint(sampler: Sampler, count: int, params: Mapping[str, Any], config: T5Config) -> str:
    """Return a fingerprint of what decides a pool: its examples, and how an encoder reads them.

    Args:
        sampler: As of :func:`write_pool`, like the other arguments.
        count: Number of examples.
        params: Parameters of the network.
        config: The network.
    """
    examples = (sampler.store.fingerprint, repr(sampler.config), sampler.seed, sampler.batch_size, count)
    reading = (repr(config.encoder), repr(config.sentence), config.plan_terms)
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(params["encoder"])]
    return fingerprint(*examples, *reading, *weights)


def is_current(folder: Path, made_of: str) -> bool:
    """Return whether a folder holds the pool with this :func:`pool_fingerprint`."""
    try:
        return load_arrays(folder, kind=KIND, version=VERSION)[1].get("made_of") == made_of
    except InputError:
        return False
