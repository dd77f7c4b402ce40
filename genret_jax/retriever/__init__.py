"""Open a run and ask it."""

from genret_jax.retriever.retriever import Retriever, SearchResult

__all__ = ["Retriever", "SearchResult"]
