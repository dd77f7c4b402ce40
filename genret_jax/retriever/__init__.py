"""Search a trained run for documents or items, and write queries for documents."""

from genret_jax.retriever.query_writer import QueryWriter, generate_queries
from genret_jax.retriever.retriever import Retriever, SearchResult

__all__ = ["QueryWriter", "Retriever", "SearchResult", "generate_queries"]
