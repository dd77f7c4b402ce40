"""Counter-based random numbers: each one is a hash of (seed, step, row, stream, position).

There is no state, so a batch can be computed in parts, in any order, by several processes, on any platform. The hash is
SplitMix64's finaliser (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA; constants of
Stafford's variant 13).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1, _MULTIPLY_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def splitmix64(values: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Hash each number by one step of the SplitMix64 generator from that state."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> _SHIFT_1)) * _MULTIPLY_1
    mixed = (mixed ^ (mixed >> _SHIFT_2)) * _MULTIPLY_2
    return mixed ^ (mixed >> _SHIFT_3)


def hash_texts(texts: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """Hash each text, with the same result on every machine (BLAKE2b, RFC 7693)."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


class RowRandom:
    """Random numbers of some rows of one step.

    Args:
        seed: Seed of the whole run.
        step: Step number, from 0.
        rows: Row numbers within the step's batch, b of them.
    """

    def __init__(self, seed: int, step: int, rows: Int64[np.ndarray, " b"]):
        key = splitmix64(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
        key = splitmix64(key ^ np.uint64(step))
        self._keys = splitmix64(key ^ splitmix64(rows.astype(np.uint64)))

    def _keys_of(self, stream: int) -> UInt64[np.ndarray, " b"]:
        return splitmix64(self._keys ^ splitmix64(np.array([stream], np.uint64)))

    def uniform(self, stream: int) -> Float64[np.ndarray, " b"]:
        """Return one number in [0, 1) a row; each use has a stream of its own."""
        return _to_unit(self._keys_of(stream))

    def uniforms(self, stream: int, count: int) -> Float64[np.ndarray, "b count"]:
        """Return ``count`` numbers in [0, 1) a row; with a larger count the first ones are the same."""
        positions = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        return _to_unit(splitmix64(self._keys_of(stream)[:, None] + positions[None]))

    def below(self, stream: int, limits: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """Return one integer in [0, limit) a row; 0 where the limit is 0."""
        return (self.uniform(stream) * limits).astype(np.int64)

    def select(self, rows: np.ndarray) -> "RowRandom":
        """Return the random numbers of some of the rows, given as indices or a mask."""
        chosen = object.__new__(RowRandom)
        chosen._keys = self._keys[rows]
        return chosen


def _to_unit(hashed: UInt64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return (hashed >> np.uint64(11)) * 2.0**-53
