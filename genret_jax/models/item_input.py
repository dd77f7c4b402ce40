"""Vectors and attention biases for encoder input that is a sequence of items, such as a user's history.

T5's position bias knows only the distance between two tokens, which is exact up to eight tokens (two items of four
codes), and its decoder does not know the positions of the input. The biases here depend on the number of items between
two tokens, on the tokens' places within their items, and on how many items came after a token's item: a history is a
sequence of whole items, and the latest items matter most.

An item may be one position instead of one per code (``ItemInput.whole``): the sum of the vectors of its codes and
prefixes. That costs the encoder a fraction, and the network need not learn which codes belong to one item.

With causal items (``ItemInput.causal``), which do not attend to later items, one encoding of a history serves every
item as a target, and several histories can be packed into one row of the batch.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Bool, Float, Int

from genret_jax.models.config import ItemInput, T5Config
from genret_jax.models.layers import MASKED, Embed, padding_bias, relative_position_buckets

_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def places(form: ItemInput, length: int) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Return the item of each of ``length`` positions, and the position's place within the item.

    Tokens before the first item have the item -1, and the places after those of an item.
    """
    after = np.arange(length) - form.leading
    item = np.where(after < 0, -1, after // form.positions)
    return item, np.where(after < 0, form.positions + np.arange(length), after % form.positions)


def shown(form: ItemInput, tokens: Int[Array, "b t"]) -> Bool[Array, "b l"]:
    """Return which positions of the encoder are not padding."""
    if not form.whole:
        return tokens > 0
    return jnp.concatenate([tokens[:, : form.leading], tokens[:, form.leading :: form.tokens]], axis=1) > 0


class WholeItems(nn.Module):
    """A vector for each item: the sum of the vectors of its tokens and of the nodes that they lead to.

    The nodes' vectors begin at zero, so an item that training has not shown has the vector of its codes.

    If the decoder uses the same vectors (``T5Config.ties_items``), they have a norm near 1, as logits require, and the
    encoder multiplies them by the square root of the width, as in Vaswani et al. 2017 (arXiv 1706.03762, section 3.4).

    Attributes:
        config: The network's shape.
        embedding: Vectors of the tokens.
    """

    config: T5Config
    embedding: Embed

    def setup(self) -> None:
        """Declare the table of the nodes' vectors."""
        shape = (self.config.num_nodes, self.config.d_model)
        self.nodes = param_with_axes(
            "nodes", nn.initializers.zeros, shape, jnp.float32, axes=("nodes", "embed"), module=self
        )

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b l d"]:
        """Return the vectors of the tokens before the items, followed by the vectors of the items."""
        form = self.config.item_input
        assert form is not None
        items = tokens[:, form.leading :].reshape(len(tokens), -1, 2, form.length)
        codes, nodes = items[:, :, 0], items[:, :, 1]
        vectors = self.embedding(codes) + jnp.take(self.nodes, nodes, axis=0, mode="clip").astype(self.embedding.dtype)
        summed = jnp.sum(vectors * (codes > 0)[..., None], axis=2)
        together = jnp.concatenate([self.embedding(tokens[:, : form.leading]), summed], axis=1)
        return together * self.config.d_model**0.5 if self.config.ties_items else together


def _per_head(module: Any, name: str, rows: int) -> Float[Array, "h r"]:
    shape, axes = (module.config.num_heads, rows), ("heads", "relpos_buckets")
    return param_with_axes(name, _INIT, shape, jnp.float32, axes=axes, module=module)


class ItemBias(nn.Module):
    """Bias of the encoder's attention, by the number of items between two tokens and by their places within the items.

    With causal items, it also hides later items, and the items of other histories in the row.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "#b h l l"]:
        """Return the bias of the attention logits in float32; padding is hidden.

        Args:
            tokens: Input of the encoder.
            histories: Number of the history to which each item belongs, if rows hold several histories.
        """
        form, buckets = self.config.item_input, self.config.relative_attention_num_buckets
        assert form is not None
        filled = shown(form, tokens)
        item, place = places(form, filled.shape[1])
        apart = relative_position_buckets(
            item[None, :] - item[:, None],
            bidirectional=True,
            num_buckets=buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        kinds = form.positions + form.leading
        pairs = place[:, None] * kinds + place[None, :]
        of_items, of_places = _per_head(self, "items", buckets), _per_head(self, "places", kinds * kinds)
        bias = (jnp.take(of_items, apart, axis=1) + jnp.take(of_places, pairs, axis=1))[None]
        bias = bias + padding_bias(filled)
        if form.causal:
            visible = jnp.asarray(item[:, None] >= item[None, :])[None]
            if histories is not None:
                of_position = jnp.repeat(histories, form.positions, axis=1)
                visible &= of_position[:, :, None] == of_position[:, None, :]
            bias = bias + jnp.where(visible, 0.0, MASKED)[:, None]
        return bias


class RecencyBias(nn.Module):
    """Bias of the decoder's attention to a history, by the number of items that came after a token's item.

    Tokens before the first item have a bias of their own.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "b h #q l"]:
        """Return the bias of the attention logits in float32; all but the target's history is hidden.

        Args:
            tokens: Input of the encoder.
            histories: Number of the history to which each item belongs, if rows hold several histories. Each item then
                has a target, whose history ends with that item.

        Returns:
            The bias for the one target of each row (``q = 1``), or for all targets in order (``q = n * length``).
        """
        form = self.config.item_input
        assert form is not None
        table = _per_head(self, "recency", form.count + 1)
        filled = shown(form, tokens)
        item, _ = places(form, filled.shape[1])
        if histories is None:
            latest = jnp.where(filled, jnp.asarray(item)[None], -1).max(axis=1, keepdims=True)
            ago = (latest - item[None])[:, None]  # --> [b, 1, l]
            known = filled[:, None]
        else:
            first = np.arange(histories.shape[1])
            apart = first[:, None] - item[None, :]  # --> [n, l]
            own = histories[:, :, None] == jnp.repeat(histories, form.positions, axis=1)[:, None]
            ago, known = jnp.asarray(apart)[None], own & (apart >= 0)[None] & filled[:, None]
        rows = jnp.where(jnp.asarray(item >= 0)[None, None], jnp.clip(ago, 0, form.count - 1), form.count)
        bias = jnp.moveaxis(jnp.take(table, rows, axis=1), 0, 1) + _hidden(known)[:, None]
        return bias if histories is None else jnp.repeat(bias, form.length, axis=2)


def _hidden(known: Bool[Array, "b q l"]) -> Float[Array, "b q l"]:
    return jnp.where(known, 0.0, MASKED)
