"""The interface of a model to the search: logits of the next token, and a cache whose rows can be reordered."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

Cache = Mapping[str, Any]


@runtime_checkable
class Step(Protocol):
    """A model's next-token logits.

    The first call of a search has one beam for every query, with token 0 and the root's prefix node, and
    ``first=True``, so that a model may treat the root in its own way. The cache is a mapping: leaves under ``"beams"``
    have leading axes ``[b, k]`` and follow their beams; everything else (``"shared"``, ``"position"``) stays as the
    step returns it. After the first call, shapes and dtypes of the cache must stay as they are.
    """

    def __call__(
        self, tokens: Int[Array, "b k"], prefix_nodes: Int[Array, "b k"], cache: Cache, *, first: bool
    ) -> tuple[Float[Array, "b k v"], Cache]:
        """Return the logits that follow these tokens, and the cache that holds them."""


@runtime_checkable
class Forced(Protocol):
    """A model's logits at several positions at once, where the tokens to come are already decided."""

    def __call__(
        self, tokens: Int[Array, "b k l"], prefix_nodes: Int[Array, "b k l"], cache: Cache
    ) -> Float[Array, "b k l v"]:
        """Return the logits that follow each of these tokens, which stand one after the other."""


def take_beams(tree: Any, beams: Int[Array, "b k"]) -> Any:
    """Choose beams of each query from ``[b, j, ...]`` leaves: ``[b, k, ...]``."""

    def take(leaf: Array) -> Array:
        return jax.vmap(lambda of_query, chosen: of_query.at[chosen].get(mode="promise_in_bounds"))(leaf, beams)

    return jax.tree.map(take, tree)


def reorder(cache: Cache, parents: Int[Array, "b k"]) -> Cache:
    """Give each new beam the cache of its parent."""
    return {**cache, "beams": take_beams(cache["beams"], parents)}
