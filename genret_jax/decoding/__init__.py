"""The docid index and the beam search over it: exact, jitted, and without knowledge of any model."""

from genret_jax.decoding.constraint import TrieConstraint
from genret_jax.decoding.documents import RankedDocuments, rank_documents, with_share
from genret_jax.decoding.exhaustive import Exhaustive
from genret_jax.decoding.filters import DocidFilter, allow, forbid
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.plan import Plan
from genret_jax.decoding.result import BeamResult
from genret_jax.decoding.sampling import sample_tokens
from genret_jax.decoding.scores import INVALID
from genret_jax.decoding.search import Strategy, beam_search
from genret_jax.decoding.step import Cache, Forced, Step
from genret_jax.decoding.strategies import Unconstrained

__all__ = [
    "INVALID",
    "BeamResult",
    "Cache",
    "DocidFilter",
    "DocidIndex",
    "Exhaustive",
    "Forced",
    "Plan",
    "RankedDocuments",
    "Step",
    "Strategy",
    "TrieConstraint",
    "Unconstrained",
    "allow",
    "beam_search",
    "forbid",
    "rank_documents",
    "sample_tokens",
    "with_share",
]
