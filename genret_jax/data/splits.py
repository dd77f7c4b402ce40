"""Held-out queries, and evenly spread samples."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.words import normalized_words
from genret_jax.docids.streaming import evenly_spaced


def hold_out(corpus: Corpus, share: float, *, split: str = "validation") -> Corpus:
    """Move a share of the training queries to a new split, so that choices need no test queries.

    The split of a query depends on its id alone, so other queries do not change it. At least one query stays for
    training, and an empty split is not made.

    Args:
        corpus: A corpus with a split ``train``.
        share: Expected share of the queries to move, from 0 to 1.
        split: Name of the new split.
    """
    train = corpus.qrels["train"]
    moved = {query for query in train if hash_to_unit(query) < share}
    if len(moved) == len(train):
        moved.remove(max(moved, key=hash_to_unit))
    if not moved:
        return corpus
    divided = {
        "train": {query: grades for query, grades in train.items() if query not in moved},
        split: {query: grades for query, grades in train.items() if query in moved},
    }
    return dataclasses.replace(corpus, qrels={**corpus.qrels, **divided})


def without_generated(corpus: Corpus, *, split: str) -> tuple[Corpus, int]:
    """Leave out generated queries that have the same normalised words as a query of a split, and count them.

    Args:
        corpus: A corpus.
        split: The split whose queries training must not see; may be missing.
    """
    hidden = {tuple(normalized_words(corpus.queries[query])) for query in corpus.qrels.get(split, ())} - {()}
    kept = {
        doc_id: tuple(query for query in queries if tuple(normalized_words(query)) not in hidden)
        for doc_id, queries in corpus.generated_queries.items()
    }
    left_out = sum(map(len, corpus.generated_queries.values())) - sum(map(len, kept.values()))
    kept = {doc_id: queries for doc_id, queries in kept.items() if queries}
    return dataclasses.replace(corpus, generated_queries=kept), left_out


def hash_to_unit(text: str) -> float:
    """Hash a text to a number from 0 to below 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def evenly_spread(indices: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    """Return at most ``most`` of the indices, evenly spread over them."""
    return indices[evenly_spaced(len(indices), most)]
