"""Open a run and ask it: for documents, for items, or for queries of documents."""

from genret_jax.retriever.query_writer import QueryWriter, generate_queries
from genret_jax.retriever.retriever import Retriever, SearchResult

__all__ = ["QueryWriter", "Retriever", "SearchResult", "generate_queries"]
