"""Figures about a table of docids: usage and perplexity of every level, depth, collisions, and fit to the vectors."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.quantiser import Quantiser, ReconstructingQuantiser
from genret_jax.docids.streaming import evenly_spaced, read
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError

# Size of the sample of documents, and number of those whose neighbours are found in it.
_SAMPLE, _ASKED = 1 << 16, 1 << 11
_AT_ONCE = 256
_LONGEST_PREFIX = 3


def describe(
    table: DocidTable, vectors: np.ndarray | None = None, quantiser: Quantiser | None = None
) -> dict[str, Any]:
    """Return figures about a table as JSON values.

    Args:
        table: The docids.
        vectors: One vector for each document, [n, d], to compare the docids with.
        quantiser: The quantiser that made the docids; with vectors, its reconstruction error is measured too.

    Returns:
        ``documents``, ``rows``, ``docids`` (distinct), ``nodes`` and ``strategy``; ``levels``, one entry a level;
        ``depth``, docid length to number of rows; ``collisions``: the number of ``docids`` that several documents
        share, the number of these ``documents``, and the ``largest`` number of documents with one docid;
        ``documents_with_several_docids``.

        A level has its ``size``, the ``rows`` that reach it, the ``prefixes`` (distinct docids, cut after it), the
        ``collision_rate`` (one minus prefixes over rows: the share of documents that a separating code after this
        level has to tell apart), the ``used`` codes, their ``perplexity`` (exp of the entropy: the number of
        codes, if all were equally frequent) and ``perplexity_given_prefix`` (the same from the conditional entropy
        given the codes before).

        With vectors, ``vectors`` has what :func:`describe_vectors` returns and, for a
        quantiser that reconstructs them, ``relative_errors``: the share of the variance left after each level.
    """
    padded, lengths = table.padded(), table.lengths
    path = table.paths()
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
        size: Size of the codebook.
        codes: Code at this level of every row that reaches it.
        before: Tree node of each row before this code.
        after: Tree node of each row after this code.
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


def describe_vectors(table: DocidTable, vectors: np.ndarray, *, neighbours: int = 10) -> dict[str, Any]:
    """Return figures about a table and the vectors of its documents as JSON values.

    Args:
        table: The docids. A document with several docids is described by its first.
        vectors: One vector for each document, [n, d]. Large sets are sampled evenly.
        neighbours: Number of nearest documents, by cosine.

    Returns:
        ``documents``, the number of sampled documents; ``neighbours``; and ``prefixes``, one entry each for the first
        code, the first two and the first three: the share of a document's nearest ``neighbours`` that have the same
        prefix, the share of ``random`` other documents that have it, and ``variance_left``, the share of the variance
        that is within the groups of documents with one prefix.

    Raises:
        InputError: If there is not one vector for each document.
    """
    if vectors.ndim != 2 or len(vectors) != table.num_documents:
        raise InputError(
            f"vectors of shape {list(vectors.shape)}",
            expected=f"[{table.num_documents}, width], one for each document of the docids",
            fix="give the vectors of the documents that the docids were made for",
        )
    rows = evenly_spaced(len(vectors), _SAMPLE)
    prefixes, sampled = _prefixes(table)[rows], read(vectors, rows)
    found = min(neighbours, len(rows) - 1)
    described: dict[str, Any] = {"documents": len(rows), "neighbours": found, "prefixes": []}
    if found < 1:
        return described
    asked = evenly_spaced(len(rows), _ASKED)
    nearest = nearest_by_cosine(sampled, asked, found)
    for prefix in prefixes.T[:_LONGEST_PREFIX]:
        same = (prefix[asked][:, None] == prefix[nearest]) & (prefix[nearest] > 0)
        shares = {"neighbours": float(same.mean()), "random": _random_share(prefix)}
        described["prefixes"].append({**shares, "variance_left": _variance_left(sampled, prefix)})
    return described


def nearest_by_cosine(
    vectors: Float32[np.ndarray, "n d"], asked: Int[np.ndarray, " q"], count: int
) -> Int32[np.ndarray, "q k"]:
    """Return the nearest other vectors of some vectors.

    Args:
        vectors: All vectors.
        asked: Indices of the vectors whose neighbours are wanted.
        count: Number of neighbours of each.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = jnp.asarray(vectors / np.maximum(norms, 1e-30))
    blocks = np.resize(asked, (-(-len(asked) // _AT_ONCE), _AT_ONCE))  # the last is filled up with the first
    found = [np.asarray(_nearest(directions, block, count)) for block in blocks]
    return np.concatenate(found)[: len(asked)]


@functools.partial(jax.jit, static_argnames="count")
def _nearest(directions: Float[Array, "n d"], asked: Int[Array, " q"], count: int) -> Int[Array, "q k"]:
    cosines = directions[asked] @ directions.T
    others = cosines.at[jnp.arange(len(asked)), asked].set(-jnp.inf)
    return jax.lax.top_k(others, count)[1]


def _prefixes(table: DocidTable) -> Int32[np.ndarray, "n m"]:
    """Return the tree nodes of every document's prefixes, 0 beyond its length."""
    rows = np.unique(table.document, return_index=True)[1]
    return table.paths()[rows, 1:]


def _random_share(prefix: Int32[np.ndarray, " n"]) -> float:
    """Return the share of all pairs of different documents that have the same prefix."""
    counts = np.unique(prefix[prefix > 0], return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(prefix) * (len(prefix) - 1)))


def _variance_left(vectors: Float32[np.ndarray, "n d"], prefix: Int32[np.ndarray, " n"]) -> float:
    group = np.unique(prefix, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    centred = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)[None]
    sums = np.add.reduceat(centred[order], starts, axis=0).astype(np.float64)
    explained = (np.square(sums).sum(1) / np.bincount(group)).sum()
    return float(max(0.0, 1 - explained / max(np.square(centred).sum(dtype=np.float64), 1e-30)))


def _level_line(index: int, level: Mapping[str, Any]) -> str:
    return (
        f"{index:>5} {level['size']:>8,} {level['used']:>8,} {level['perplexity']:>11,.1f} "
        f"{level['perplexity_given_prefix']:>13,.1f} {level['prefixes']:>10,} {level['rows']:>10,} "
        f"{level['collision_rate']:>10.1%}"
    )


def summary_text(described: dict[str, Any]) -> str:
    """Return the result of :func:`describe` as text."""
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
