"""Positions where the input is a sequence of items: how many items apart, where within them, and how long ago.

T5 knows how far apart two tokens of its input are and nothing else, its exact distances end after eight tokens, which
are two items of four codes, and its decoder does not know where a token of the input stands. What these add is what a
user's history is made of: whole items in order, of which the latest say most.

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
from genret_jax.models.layers import MASKED, padding_bias, relative_position_buckets

_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def places(form: ItemInput, length: int) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Return for each position its item, and its place within it.

    Tokens before the first item are item -1; their places follow those of an item's tokens.
    """
    after = np.arange(length) - form.leading
    item = np.where(after < 0, -1, after // form.length)
    return item, np.where(after < 0, form.length + np.arange(length), after % form.length)


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
        self, tokens: Int[Array, "b l"], histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "#b h l l"]:
        """Return the bias of attention logits, padding hidden, in float32.

        Args:
            tokens: The input.
            histories: Number of the history that each item belongs to, where there are several in a row.
        """
        form, buckets = self.config.item_input, self.config.relative_attention_num_buckets
        assert form is not None
        item, place = places(form, tokens.shape[1])
        apart = relative_position_buckets(
            item[None, :] - item[:, None],
            bidirectional=True,
            num_buckets=buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        kinds = form.length + form.leading
        pairs = place[:, None] * kinds + place[None, :]
        of_items, of_places = _per_head(self, "items", buckets), _per_head(self, "places", kinds * kinds)
        bias = (jnp.take(of_items, apart, axis=1) + jnp.take(of_places, pairs, axis=1))[None]
        bias = bias + padding_bias(tokens > 0)
        if form.causal:
            visible = jnp.asarray(item[:, None] >= item[None, :])[None]
            if histories is not None:
                of_token = jnp.repeat(histories, form.length, axis=1)
                visible &= of_token[:, :, None] == of_token[:, None, :]
            bias = bias + jnp.where(visible, 0.0, MASKED)[:, None]
        return bias


class RecencyBias(nn.Module):
    """Bias of the decoder's attention to a history: one for how many items came after a token's item.

    Tokens before the first item have one of their own.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b l"], histories: Int[Array, "b n"] | None = None
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
        item, _ = places(form, tokens.shape[1])
        if histories is None:
            latest = jnp.where(tokens > 0, jnp.asarray(item)[None], -1).max(axis=1, keepdims=True)
            ago = (latest - item[None])[:, None]  # --> [b, 1, l]
            shown = (tokens > 0)[:, None]
        else:
            first = np.arange(histories.shape[1])
            apart = first[:, None] - item[None, :]  # --> [n, l]
            own = histories[:, :, None] == jnp.repeat(histories, form.length, axis=1)[:, None]
            ago, shown = jnp.asarray(apart)[None], own & (apart >= 0)[None] & (tokens > 0)[:, None]
        rows = jnp.where(jnp.asarray(item >= 0)[None, None], jnp.clip(ago, 0, form.count - 1), form.count)
        bias = jnp.moveaxis(jnp.take(table, rows, axis=1), 0, 1) + _hidden(shown)[:, None]
        return bias if histories is None else jnp.repeat(bias, form.length, axis=2)


def _hidden(shown: Bool[Array, "b q l"]) -> Float[Array, "b q l"]:
    return jnp.where(shown, 0.0, MASKED)
