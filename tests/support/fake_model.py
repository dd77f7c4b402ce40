"""A model whose logits are a hash of everything before them: any wrong token, node or cache row changes the answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeModel:
    """Logits that depend on the query, all earlier tokens and all earlier prefix nodes.

    The step keeps its history in the cache alone, so beams whose cache was not reordered with them answer wrongly. The
    same numbers come from :meth:`log_probs` in plain NumPy.

    Attributes:
        vocab_size: Width of the logits.
        scale: Logits lie in ``[-scale, scale)``.
        levels: Distinct logits; few of them make equal scores.
        seed: Another model for each.
        dtype: Of the logits.
    """

    vocab_size: int
    scale: float = 4.0
    levels: int = 1 << 24
    seed: int = 0
    dtype: str = "float32"

    def cache(self, batch: int) -> dict[str, Any]:
        """Return the cache of an empty prefix, one beam a query."""
        return {
            "beams": {"history": jnp.asarray(self._start(np.arange(batch)))[:, None]},
            "shared": {
                "query": jnp.arange(batch, dtype=jnp.uint32)[:, None],
                # Models of few levels share a compiled program with others.
                "levels": jnp.full((batch, 1), self.levels, jnp.uint32),
            },
            "position": jnp.zeros((), jnp.int32),
        }

    def step(self, tokens: Any, prefix_nodes: Any, cache: Any, *, first: bool) -> tuple[Any, Any]:
        """Follow the protocol of :class:`genret_jax.decoding.Step`."""
        history = _read(cache["beams"]["history"], tokens, prefix_nodes, cache["position"], jnp)
        assert not first or tokens.shape[1] == 1, "the first step has one beam"
        logits = self._logits(history, cache["shared"]["levels"][..., None], jnp).astype(self.dtype)
        return logits, {**cache, "beams": {"history": history}, "position": cache["position"] + 1}

    def forced(self, tokens: Any, prefix_nodes: Any, cache: Any) -> Any:
        """Follow the protocol of :class:`genret_jax.decoding.Forced`."""
        logits = []
        for place in range(tokens.shape[2]):
            of_place, cache = self.step(tokens[..., place], prefix_nodes[..., place], cache, first=False)
            logits.append(of_place)
        return jnp.stack(logits, axis=2)

    def log_probs(self, query: int, tokens: Sequence[int], prefix_nodes: Sequence[int]) -> np.ndarray:
        """Return the log-probabilities ``[v]`` (float64) that follow some tokens.

        Args:
            query: Row of the batch.
            tokens: Emitted so far.
            prefix_nodes: Before each of these tokens and before the one to come, so one more.
        """
        history = self._start(np.array([query]))
        for position, (token, node) in enumerate(zip([0, *tokens], prefix_nodes, strict=True)):
            history = _read(history, np.array([token]), np.array([node]), np.array([position]), np)
        logits = self._logits(history, np.full((1, 1), self.levels, np.uint32), np)[0].astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    def _start(self, query: np.ndarray) -> np.ndarray:
        return _mix(query.astype(np.uint32) * np.uint32(0x9E3779B9) + np.uint32(self.seed))

    def _logits(self, history: Any, levels: Any, xp: Any) -> Any:
        tokens = xp.arange(self.vocab_size).astype(np.uint32) * np.uint32(0x85EBCA77)
        hashed = _mix(history[..., None] + tokens.reshape((1,) * history.ndim + (-1,)))
        level = (hashed >> np.uint32(8)) % levels
        return (level.astype(np.float32) / levels.astype(np.float32) * 2 - 1) * np.float32(self.scale)


def _read(history: Any, tokens: Any, prefix_nodes: Any, position: Any, xp: Any) -> Any:
    """Take one token, and where it was read, into the history."""
    news = _mix(tokens.astype(np.uint32) * np.uint32(31) + position.astype(np.uint32) + np.uint32(1))
    return _mix(history ^ _mix(news + _mix(prefix_nodes.astype(np.uint32))))


def _mix(x: Any) -> Any:
    """Finalise as MurmurHash3 does (Appleby 2011): every bit of uint32 input moves half of the output's."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
