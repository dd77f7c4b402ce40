"""A run on items: a user's history in, docids of items out."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.histories import HistoryConfig, cold_items, history_tokens
from genret_jax.data.interactions import Interactions, read_interactions
from genret_jax.docids import load_quantiser
from genret_jax.errors import InputError
from genret_jax.models.config import divisible
from genret_jax.models.initialize import start_from_items
from genret_jax.run.base import ITEMS, QUANTISER, START_VECTORS, VERSION, Run, from_json
from genret_jax.storage import load_arrays


class ItemRun(Run):
    """An opened run on items."""

    kind = ITEMS

    @functools.cached_property
    def interactions(self) -> Interactions:
        """Items and users' histories."""
        found: Interactions = self._read(read_interactions)
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
        return cold_items(len(self.corpus), self.settings["cold_items"])

    def with_items(
        self, item_ids: Sequence[str], vectors: np.ndarray, *, titles: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> "ItemRun":
        """Return the run with further items, whose docids come from their vectors; the folder stays as it is.

        Args:
            item_ids: Their ids.
            vectors: One for each of them, made as those of the run's items were, [n, d].
            titles: Their titles; none by default.
            texts: Their texts; none by default.

        Raises:
            InputError: If the run's docids are not made of vectors, its network knows no codes, an item is there
                already, the vectors do not fit, or there is no room left for the code that separates an item from
                those with equal codes.
        """
        if self.model.head == "prefix" and not self.model.shared_codes:
            raise InputError(
                "a head that knows each node by itself, and nothing of new ones",
                file=self.folder,
                expected="a head that knows codes",
                fix="train with T5Config.head = 'vocabulary' or T5Config.shared_codes = True",
            )
        if not (self.folder / QUANTISER).is_dir():
            raise InputError(
                f"docids of the strategy {self.table.strategy.get('name', '')!r} for new items",
                file=self.folder,
                expected="docids that are made of vectors",
                fix="train with ResidualKMeans or RqVae",
            )
        corpus = self.corpus.extended(item_ids, titles, texts)
        quantiser = load_quantiser(self.folder / QUANTISER)
        grown = ItemRun(self.folder, self.settings)
        grown.table = self._appended(quantiser, item_ids, vectors, corpus.fingerprint)
        grown.interactions = dataclasses.replace(self.interactions, items=corpus)
        grown.cold = np.concatenate([self.cold, np.ones(len(item_ids), bool)])
        if self.model.num_nodes:
            nodes = max(self.model.num_nodes, divisible(grown.encoded.tree.num_nodes))
            grown.model = dataclasses.replace(self.model, num_nodes=nodes)
        return grown

    @functools.cached_property
    def item_tokens(self) -> Int32[np.ndarray, "n m"]:
        """The docid of every item as tokens, padded with 0; its first, where it has several."""
        return self.encoded.tokens[self.row_of_document]

    @functools.cached_property
    def item_nodes(self) -> Int32[np.ndarray, "n m"]:
        """The tree's node before each of those tokens."""
        return self.encoded.prefix_nodes[self.row_of_document]

    @functools.cached_property
    def item_inputs(self) -> Int32[np.ndarray, "n t"]:
        """Every item as the encoder reads it: its docid, and for whole items the nodes that its tokens lead to."""
        if not self.histories.whole_items:
            return self.item_tokens
        reached = self.encoded.tree.children(self.item_nodes, self.item_tokens)
        return np.concatenate([self.item_tokens, np.where(self.item_tokens > 0, reached, 0)], axis=1)

    def user_tokens(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"] | None:
        """Return the encoder's token of each user, behind those of the codes; None where the model knows no users."""
        if not self.histories.user_tokens:
            return None
        return np.int32(self._codec.vocab_size) + self.histories.user_numbers(user_ids)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Numbers of tokens that the encoder is compiled for; short histories then do without the padding of long."""
        lengths = [2**power for power in range(1, self.histories.items.bit_length())]
        return tuple(bool(self.histories.user_tokens) + items * self.item_inputs.shape[1] for items in lengths)

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
        return history_tokens(items, self.item_inputs, tokens)

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        start = from_json(self.settings["start"])
        if start is None:
            return jax.tree.map(np.asarray, self._random_params())
        vectors = load_arrays(self.folder / START_VECTORS, kind=START_VECTORS, version=VERSION)[0]["items"]
        shown, (tokens, nodes) = ~self.cold, np.split(self.item_inputs, 2, axis=1)
        return start_from_items(
            self._random_params(),
            self.model,
            start,
            tokens=tokens[shown],
            nodes=nodes[shown],
            vectors=vectors[shown],
            seed=self.seed,
        )
