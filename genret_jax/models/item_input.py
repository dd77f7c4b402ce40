"""Positions where the input is a sequence of items: how many items apart, where within them, and how long ago.

T5 knows how far apart two tokens of its input are and nothing else, its exact distances end after eight tokens, which
are two items of four codes, and its decoder does not know where a token of the input stands. What these add is what a
user's history is made of: whole items in order, of which the latest say most.

An item need not be as many positions as its docid has codes: as one (``ItemInput.whole``), the sum of what its codes
and its prefixes mean, it costs the encoder a fraction, and the network need not learn first which codes make an item.

Where items do not see those after them (``ItemInput.causal``), one encoding of a history serves every item of it as a
target, and histories may be packed behind one another in one row of the batch: an encoder's work for one target, done
once for all of them.
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
    """Return for each of so many positions its item, and its place within it.

    Tokens before the first item are item -1; their places follow those of an item's.
    """
    after = np.arange(length) - form.leading
    item = np.where(after < 0, -1, after // form.positions)
    return item, np.where(after < 0, form.positions + np.arange(length), after % form.positions)


def shown(form: ItemInput, tokens: Int[Array, "b t"]) -> Bool[Array, "b l"]:
    """Return which positions of the encoder hold something."""
    if not form.whole:
        return tokens > 0
    return jnp.concatenate([tokens[:, : form.leading], tokens[:, form.leading :: form.tokens]], axis=1) > 0


class WholeItems(nn.Module):
    """A vector for each item: the sum of those of its tokens and of the nodes that they lead to.

    The nodes' begin at zero, so that an item which training has not seen is what its codes say.

    Where the decoder has the same vectors (``T5Config.ties_items``) they are of a length near 1, as logits need it, and
    the encoder multiplies them by the root of the width, as Vaswani et al. 2017 (arXiv 1706.03762, section 3.4) do.

    Attributes:
        config: The network's shape.
        embedding: The tokens'.
    """

    config: T5Config
    embedding: Embed

    def setup(self) -> None:
        """Declare the nodes' table."""
        shape = (self.config.num_nodes, self.config.d_model)
        self.nodes = param_with_axes(
            "nodes", nn.initializers.zeros, shape, jnp.float32, axes=("nodes", "embed"), module=self
        )

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b l d"]:
        """Look up tokens before the items, and then the items, each as its tokens and their nodes."""
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
    """Bias of the encoder's attention: one for how many items apart two tokens are, and one for their places.

    With causal items it also hides those after a token's own, and those of other histories in the row.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "#b h l l"]:
        """Return the bias of attention logits, padding hidden, in float32.

        Args:
            tokens: The input.
            histories: Number of the history that each item belongs to, where there are several in a row.
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
    """Bias of the decoder's attention to a history: one for how many items came after a token's item.

    Tokens before the first item have one of their own.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "b h #q l"]:
        """Return the bias of attention logits, what is not the history of a target hidden, in float32.

        Args:
            tokens: The encoder's input.
            histories: Number of the history that each item belongs to, where there are several in a row; there is
                then a target for each item, whose history ends with it.

        Returns:
            For the one target of each row; or for ``q = n * length``, the targets one after the other.
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
