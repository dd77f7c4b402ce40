"""SASRec's network: causal self-attention over the items of a history (Kang & McAuley 2018, arXiv 1808.09781)."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.validation import check_fields, require

_MASKED = -1e9
_ROWS_AT_ONCE = 512  # histories ranked in one call, at most
_SCORES_AT_ONCE = 1 << 25  # scores held at a time, 128 MiB of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasRecConfig:
    """The network and its loss; the defaults are those of the paper for Amazon's data (sections III and IV-D).

    Attributes:
        width: Of item vectors, d. The paper takes 50; those who compare with it, often 64.
        blocks: Layers of self-attention and feed-forward network.
        heads: Of each attention; the paper found one no worse than two.
        max_length: Last items of a history that are read, n; the paper takes 200 for MovieLens.
        dropout: Of embeddings, attention weights and layers; the paper takes 0.2 for MovieLens.
        loss: ``"bce"`` is the paper's, against one negative a position. ``"cross_entropy"`` is the softmax over all
            items, with which SASRec is far stronger (Klenitskiy & Vasilev 2023, arXiv 2309.07602).
    """

    width: int = 64
    blocks: int = 2
    heads: int = 1
    max_length: int = 50
    dropout: float = 0.5
    loss: Literal["bce", "cross_entropy"] = "bce"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("width", "blocks", "heads"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "heads", self.width % self.heads == 0, f"a divisor of width {self.width}")
        require(self, "max_length", self.max_length >= 2, "at least 2")
        require(self, "dropout", 0 <= self.dropout < 1, "a rate from 0 to below 1")

    def describe(self) -> str:
        """Return one line for a report."""
        loss = "softmax over all items" if self.loss == "cross_entropy" else "one negative a position"
        shape = f"d {self.width}, blocks {self.blocks}, heads {self.heads}, n {self.max_length}"
        return f"SASRec, {shape}, dropout {self.dropout:g}, {loss}"


class Attention(nn.Module):
    """Scaled dot-product attention without a projection behind it (equations 2 and 3).

    Attributes:
        config: Width and heads.
    """

    config: SasRecConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], allowed: Bool[Array, "b l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Return for every place what it takes from the allowed ones."""
        heads, width = self.config.heads, self.config.width // self.config.heads
        query, key, value = (
            nn.Dense(self.config.width, use_bias=False, name=name)(x).reshape(*x.shape[:2], heads, width)
            for name in ("query", "key", "value")
        )  # --> [b, l, h, d / h]
        scores = jnp.einsum("blhd,bmhd->bhlm", query, key) / width**0.5
        weights = nn.softmax(jnp.where(allowed[:, None], scores, _MASKED))
        weights = nn.Dropout(self.config.dropout)(weights, deterministic=deterministic)
        return jnp.einsum("bhlm,bmhd->blhd", weights, value).reshape(x.shape)


class Block(nn.Module):
    """Attention and a feed-forward network, each as ``x + Dropout(g(LayerNorm(x)))`` (section III-D).

    Attributes:
        config: Width, heads and dropout.
    """

    config: SasRecConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], allowed: Bool[Array, "b l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Apply both."""
        drop = partial(nn.Dropout(self.config.dropout), deterministic=deterministic)
        normed = nn.LayerNorm(name="attention_norm")(x)
        x = x + drop(Attention(self.config, name="attention")(normed, allowed, deterministic))
        hidden = nn.relu(nn.Dense(self.config.width, name="wi")(nn.LayerNorm(name="mlp_norm")(x)))
        return x + drop(nn.Dense(self.config.width, name="wo")(drop(hidden)))


class SasRecNetwork(nn.Module):
    """From items to a vector at each place, whose inner product with an item's vector scores it as the next.

    Item vectors are the same in the input and in the output (section III-E).

    Attributes:
        config: Its shape.
        num_items: Number of items, n.
    """

    config: SasRecConfig
    num_items: int

    @nn.compact
    def __call__(
        self,
        items: Int[Array, "b l"],
        positions: Int[Array, "b l"],
        segments: Int[Array, "b l"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "n d"]]:
        """Return the vectors at all places, and those of all items.

        Args:
            items: Items, from 0.
            positions: Of each in its history, counted so that the last one has ``max_length - 1``.
            segments: Number of the history it belongs to; places see earlier ones of their own history only.
            deterministic: No dropout.
        """
        config, normal = self.config, nn.initializers.normal(0.02)
        table = param_with_axes("items", normal, (self.num_items, config.width), jnp.float32, axes=("vocab", "embed"))
        learned = self.param(
            "positions", nn.initializers.normal(config.width**-0.5), (config.max_length, config.width), jnp.float32
        )
        causal = jnp.tril(jnp.ones((1, items.shape[1], items.shape[1]), bool))
        allowed = causal & (segments[:, :, None] == segments[:, None, :])
        # The factor is in the authors' code, not in the paper. Without it the blocks, whose inputs are normalised, add
        # so much more than an item's vector to what is passed on that the last item is hardly seen any more.
        x = table[items] * config.width**0.5 + learned[positions]  # --> [b, l, d]
        x = nn.Dropout(config.dropout)(x, deterministic=deterministic)
        for number in range(config.blocks):
            x = Block(config, name=f"block_{number}")(x, allowed, deterministic)
        return nn.LayerNorm(name="final_norm")(x), table


def rank_items(
    config: SasRecConfig, params: Mapping[str, Any], histories: Int32[np.ndarray, "q l"], k: int
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Return the k best items of each history and their scores; see ``evaluation.recommendation.Recommender``.

    Args:
        config: The network.
        params: Of the network, on one device.
        histories: Positions of items, oldest first, -1 behind the last.
        k: Results a history.
    """
    num_items = params["items"].shape[0]
    k = min(k, num_items)
    items, scores = np.zeros((len(histories), k), np.int32), np.zeros((len(histories), k), np.float32)
    for rows, width in _blocks(histories, config.max_length, min(_ROWS_AT_ONCE, max(1, _SCORES_AT_ONCE // num_items))):
        block = np.full((len(rows), width), -1, np.int32)
        taken = rows[rows >= 0]
        block[: len(taken)] = _last_items(histories[taken], width)
        found, values = _rank(params, block, config=config, k=k)
        items[taken], scores[taken] = np.asarray(found)[: len(taken)], np.asarray(values)[: len(taken)]
    return items, scores


def _blocks(histories: Int32[np.ndarray, "q l"], longest: int, size: int) -> list[tuple[np.ndarray, int]]:
    """Return rows in blocks of one size, -1 behind the last row, and the width that holds their histories.

    Most histories are short, so those that fit into half the width, or a quarter, are read at that width.
    """
    lengths = np.minimum((histories >= 0).sum(axis=1), longest)
    size = min(size, max(1, len(histories)))
    blocks, shorter = [], -1
    for width in (-(-longest // 4), -(-longest // 2), longest):
        rows = np.flatnonzero((lengths > shorter) & (lengths <= width))
        padded = np.full(-(-len(rows) // size) * size, -1)
        padded[: len(rows)] = rows
        blocks += [(block, width) for block in padded.reshape(-1, size)]
        shorter = width
    return blocks


def _last_items(histories: Int32[np.ndarray, "q l"], count: int) -> Int32[np.ndarray, "q count"]:
    """Return the last items of each history, -1 behind them."""
    begins = np.maximum((histories >= 0).sum(axis=1) - count, 0)
    columns = begins[:, None] + np.arange(count)
    padded = np.pad(histories, ((0, 0), (0, count)), constant_values=-1)
    return np.take_along_axis(padded, columns, axis=1)


@partial(jax.jit, static_argnames=("config", "k"))
def _rank(
    params: Mapping[str, Any], histories: Int[Array | np.ndarray, "q l"], *, config: SasRecConfig, k: int
) -> tuple[Int[Array, "q k"], Float[Array, "q k"]]:
    known = histories >= 0
    last = jnp.maximum(known.sum(axis=1) - 1, 0)
    positions = jnp.arange(histories.shape[1])[None] + config.max_length - 1 - last[:, None]
    positions = jnp.minimum(positions, config.max_length - 1)  # those behind the last are not read
    network = SasRecNetwork(config, params["items"].shape[0])
    hidden, table = network.apply(
        {"params": params},
        jnp.maximum(histories, 0),
        jnp.minimum(positions, config.max_length - 1),
        known.astype(jnp.int32),
    )
    of_last = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    # The highest precision: an accelerator's default would round near ties apart and together.
    scores = jnp.einsum("qd,nd->qn", of_last, table, precision=jax.lax.Precision.HIGHEST)
    values, items = jax.lax.top_k(scores, k)  # ties in the order of the items
    return items, values
