"""Retrievers with documents that came later."""

from genret_jax import Retriever
from support.tiny_run import word


def grown_by_two(retriever: Retriever, *, among: int = 1) -> Retriever:
    """Add two documents to a run on the tiny topics, one after the other, and check that their texts find them.

    Args:
        retriever: A retriever of the run.
        among: Largest rank of a document for its own text.
    """
    new = {"first": f"{word(0, 3)} {word(5, 9)} {word(6, 1)}", "second": f"{word(0, 3)} {word(7, 2)} {word(2, 8)}"}
    grown = retriever
    for name, text in new.items():
        grown = grown.with_documents([name], [text])
    for name, text in new.items():
        assert name in [found.doc_id for found in grown.search(text, k=among)]
    return grown
