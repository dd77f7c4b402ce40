"""Figures about a table of docids: usage and perplexity of every level, depth, collisions, and fit to the vectors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from genret_jax.docids import code_tree
from genret_jax.docids.neighbours import describe_vectors
from genret_jax.docids.quantiser import Quantiser, ReconstructingQuantiser
from genret_jax.docids.table import DocidTable


def describe(
    table: DocidTable, vectors: np.ndarray | None = None, quantiser: Quantiser | None = None
) -> dict[str, Any]:
    """Return figures about a table as JSON values.

    Args:
        table: The docids.
        vectors: One vector a document, [n, d], to compare docids with.
        quantiser: That made the docids; with vectors, its error counts too.

    Returns:
        ``documents``, ``rows``, ``docids`` (distinct), ``nodes`` and ``strategy``; ``levels``, one entry a level;
        ``depth``, docid length to number of rows; ``collisions``: how many ``docids`` several documents share, how
        many ``documents`` have them, and the ``largest`` number on one; ``documents_with_several_docids``.

        A level has its ``size``, the ``rows`` that reach it, the ``prefixes`` (distinct docids, cut after it), the
        ``collision_rate`` (one minus prefixes over rows; that of the level before the code that tells documents apart
        is what this code is there for), the ``used`` codes, their ``perplexity`` (exp of the entropy: the number of
        codes, if all were equally frequent) and ``perplexity_given_prefix`` (the same from the conditional entropy
        given the codes before).

        With vectors, ``vectors`` has what :func:`genret_jax.docids.neighbours.describe_vectors` returns and, for a
        quantiser that reconstructs them, ``relative_errors``: the share of the variance left after each level.
    """
    padded, lengths = table.padded(), table.lengths
    path = code_tree.paths(np.asarray(table.node_parent), np.asarray(table.row_node), lengths)
    documents_of_docid = np.unique(table.row_node, return_counts=True)[1]
    shared = documents_of_docid[documents_of_docid > 1]
    described: dict[str, Any] = {
        "documents": table.num_documents,
        "rows": table.num_rows,
        "docids": len(documents_of_docid),
        "nodes": table.num_nodes,
        "strategy": dict(table.strategy),
        "levels": [
            describe_level(size, padded[lengths > level, level], *path[lengths > level, level : level + 2].T)
            for level, size in enumerate(table.level_sizes[: padded.shape[1]])
        ],
        "depth": {int(length): int(rows) for length, rows in zip(*np.unique(lengths, return_counts=True), strict=True)},
        "collisions": {
            "docids": len(shared),
            "documents": int(shared.sum()),
            "largest": int(documents_of_docid.max(initial=0)),
        },
        "documents_with_several_docids": int((np.bincount(table.document) > 1).sum()),
    }
    if vectors is not None:
        described["vectors"] = describe_vectors(table, vectors)
        if isinstance(quantiser, ReconstructingQuantiser):
            described["vectors"]["relative_errors"] = quantiser.relative_errors(vectors)
    return described


def describe_level(
    size: int, codes: Int[np.ndarray, " a"], before: Int[np.ndarray, " a"], after: Int[np.ndarray, " a"]
) -> dict[str, Any]:
    """Return figures about the codes of one level, as :func:`describe` does.

    Args:
        size: Of the codebook.
        codes: Of the rows that reach the level.
        before: A number for the codes of each row before this one.
        after: A number for the codes of each row up to this one.
    """
    return {
        "size": size,
        "rows": len(codes),
        "prefixes": (prefixes := len(np.unique(after))),
        "collision_rate": 1 - prefixes / max(len(codes), 1),
        "used": len(np.unique(codes)),
        "perplexity": float(np.exp(_entropy(codes))),
        "perplexity_given_prefix": float(np.exp(max(_entropy(after) - _entropy(before), 0))),
    }


def _entropy(values: Int[np.ndarray, " a"]) -> float:
    """Return the entropy of the values' frequencies in nats."""
    counts = np.unique(values, return_counts=True)[1]
    share = counts / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())


def _level_line(index: int, level: Mapping[str, Any]) -> str:
    return (
        f"{index:>5} {level['size']:>8,} {level['used']:>8,} {level['perplexity']:>11,.1f} "
        f"{level['perplexity_given_prefix']:>13,.1f} {level['prefixes']:>10,} {level['rows']:>10,} "
        f"{level['collision_rate']:>10.1%}"
    )


def summary_text(described: dict[str, Any]) -> str:
    """Lay out what :func:`describe` returned for reading."""
    strategy = dict(described["strategy"])
    name, course = strategy.pop("name", "unknown"), strategy.pop("course", ())
    settings = ", ".join(f"{key} {value}" for key, value in strategy.items())
    lines = [
        f"{described['documents']:,} documents, {described['docids']:,} docids, {described['nodes']:,} tree nodes",
        f"strategy {name}{f' ({settings})' if settings else ''}",
        "",
        f"{'level':>5} {'size':>8} {'used':>8} {'perplexity':>11} {'given prefix':>13} {'prefixes':>10} {'rows':>10} "
        f"{'colliding':>10}",
    ]
    for index, level in enumerate(described["levels"]):
        lines.append(_level_line(index, level))
    if course:
        lines += ["", "while they were learned, of the documents that were shown:"]
    for at in course:
        lines.append(f"{_level_line(at['level'] - 1, at)}  {at['phase']}")
    collisions, depth = described["collisions"], described["depth"]
    lines += ["", "depth: " + ", ".join(f"{rows:,} of {length} codes" for length, rows in depth.items())]
    lines.append(
        f"collisions: {collisions['docids']:,} docids of {collisions['documents']:,} documents "
        f"(largest {collisions['largest']})"
        if collisions["docids"]
        else "collisions: none, every docid belongs to one document"
    )
    if several := described["documents_with_several_docids"]:
        lines.append(f"{several:,} documents have several docids")
    if "vectors" in described:
        lines += ["", *_vector_lines(described["vectors"])]
    return "\n".join(lines)


def _vector_lines(described: dict[str, Any]) -> list[str]:
    wanted, documents = described["neighbours"], described["documents"]
    lines = [
        f"beside the vectors of {documents:,} documents, with {wanted} nearest neighbours each:",
        f"{'codes':>5} {'same of neighbours':>19} {'same of random':>15} {'variance left':>14}",
    ]
    lines += [
        f"{codes:>5} {same['neighbours']:>19.1%} {same['random']:>15.2%} {same['variance_left']:>14.1%}"
        for codes, same in enumerate(described["prefixes"], 1)
    ]
    if errors := described.get("relative_errors"):
        lines.append("variance that is not reconstructed: " + ", ".join(f"{left:.1%}" for left in errors))
    return lines
