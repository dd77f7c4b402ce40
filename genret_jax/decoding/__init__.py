"""The docid index and the beam search over it: exact, jitted, and without knowledge of any model."""

from genret_jax.decoding.documents import RankedDocuments, rank_documents
from genret_jax.decoding.exhaustive import Exhaustive
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import INVALID, BeamResult
from genret_jax.decoding.search import beam_search
from genret_jax.decoding.step import Cache, Step
from genret_jax.decoding.strategies import Strategy, TrieConstraint, Unconstrained

__all__ = [
    "INVALID",
    "BeamResult",
    "Cache",
    "DocidIndex",
    "Exhaustive",
    "RankedDocuments",
    "Step",
    "Strategy",
    "TrieConstraint",
    "Unconstrained",
    "beam_search",
    "rank_documents",
]
