"""A run on items: a user's history in, docids of items out."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.data.corpus import Corpus
from genret_jax.data.histories import HistoryConfig, cold_items, history_tokens
from genret_jax.data.interactions import Interactions, read_interactions
from genret_jax.run.base import ITEMS, Run, from_json


class ItemRun(Run):
    """An opened run on items."""

    kind = ITEMS

    @functools.cached_property
    def interactions(self) -> Interactions:
        """Items and users' histories."""
        with warnings.catch_warnings():  # they were told when the run was prepared
            warnings.simplefilter("ignore", UserWarning)
            found = read_interactions(self.folder / "corpus")
        self._require("corpus", found.fingerprint, self.folder / "corpus")
        return found.renamed(self.settings["corpus"])

    @property
    def corpus(self) -> Corpus:
        """The items."""
        return self.interactions.items

    @functools.cached_property
    def histories(self) -> HistoryConfig:
        """How histories are shown."""
        found: HistoryConfig = from_json(self.settings["histories"])
        return found

    @functools.cached_property
    def cold(self) -> Bool[np.ndarray, " n"]:
        """Items that training was not shown."""
        return cold_items(len(self.corpus), self.settings["cold_items"], self.seed)

    @functools.cached_property
    def item_tokens(self) -> Int32[np.ndarray, "n m"]:
        """The docid of every item as tokens, padded with 0; its first, where it has several."""
        return self.encoded.tokens[self.row_of_document]

    @functools.cached_property
    def item_nodes(self) -> Int32[np.ndarray, "n m"]:
        """The tree's node before each of those tokens."""
        return self.encoded.prefix_nodes[self.row_of_document]

    def user_tokens(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"] | None:
        """Return the encoder's token of each user, behind those of the codes; None where the model knows no users."""
        if not self.histories.user_tokens:
            return None
        return np.int32(self._codec.vocab_size) + self.histories.user_numbers(user_ids)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Numbers of tokens that the encoder is compiled for; short histories then do without the padding of long."""
        lengths = [2**power for power in range(1, self.histories.items.bit_length())]
        return tuple(bool(self.histories.user_tokens) + items * self.item_tokens.shape[1] for items in lengths)

    def encode_histories(
        self, items: Int[np.ndarray, "q l"], user_ids: Sequence[str | None]
    ) -> Int32[np.ndarray, "q t"]:
        """Write histories as the encoder's input.

        Args:
            items: Items, oldest first, -1 behind the last; at most as many columns as the model is shown.
            user_ids: The users, None for somebody unknown.
        """
        tokens = self.user_tokens([user or "" for user in user_ids])
        if tokens is not None:
            tokens = tokens * np.array([user is not None for user in user_ids], np.int32)
        return history_tokens(items, self.item_tokens, tokens)

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        return jax.tree.map(np.asarray, self._random_params())
