"""Beam search and trie in plain Python: slow, short, and read at a glance."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from genret_jax.decoding import DocidIndex

Docid = tuple[int, ...]
LogProbs = Callable[[Docid], np.ndarray]  # tokens emitted so far -> log-probabilities of the next one


class Found(NamedTuple):
    """What an oracle finds for one query."""

    docids: list[tuple[Docid, float]]  # with their scores, best first
    margin: float  # the closest decision on the way: below about 1e-4, float32 may decide otherwise


def ended_docids(sequences: Iterable[Sequence[int]], *, eos: int = 1, always: bool = False) -> list[Docid]:
    """Put EOS behind the sequences that begin another, as a codec does, or behind all."""
    docids = [tuple(sequence) for sequence in sequences]
    beginnings = {docid[:length] for docid in docids for length in range(1, len(docid))}
    return [(*docid, eos) if always or docid in beginnings else docid for docid in docids]


def padded_rows(docids: Sequence[Docid], width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens ``[r, m]``, 0 beyond the end, and lengths ``[r]``."""
    lengths = np.array([len(docid) for docid in docids])
    tokens = np.zeros((len(docids), width or lengths.max()), np.int32)
    for row, docid in enumerate(docids):
        tokens[row, : len(docid)] = docid
    return tokens, lengths


def oracle_beam_search(docids: Iterable[Docid], log_probs: LogProbs, beams: int) -> Found:
    """Search a set of docids with a beam of some width; equal scores go to the lower beam, then the lower token."""
    docids, margin = set(docids), np.inf
    kept: list[tuple[Docid, float]] = [((), 0.0)]
    while any(prefix not in docids for prefix, _ in kept):
        candidates = []
        for prefix, score in kept:
            if prefix in docids:
                candidates.append((prefix, score))
                continue
            scores, length = log_probs(prefix), len(prefix)
            for token in sorted(
                {docid[length] for docid in docids if len(docid) > length and docid[:length] == prefix}
            ):
                candidates.append(((*prefix, token), score + scores[token]))
        candidates.sort(key=lambda candidate: -candidate[1])  # stable
        if len(candidates) > beams:
            margin = min(margin, candidates[beams - 1][1] - candidates[beams][1])
        kept = candidates[:beams]
    return Found(kept, min(margin, _closest(kept)))


def oracle_exhaustive(docids: Iterable[Docid], log_probs: LogProbs, beams: int) -> Found:
    """Score every docid; equal scores go to the shorter docid, then to the lower tokens."""
    scored = []
    for docid in sorted(set(docids), key=lambda docid: (len(docid), docid)):
        steps = [log_probs(docid[:length])[token] for length, token in enumerate(docid)]
        scored.append((docid, float(np.sum(steps))))
    scored.sort(key=lambda pair: -pair[1])
    return Found(scored[:beams], _closest(scored[: beams + 1]))


def _closest(ranked: list[tuple[Docid, float]]) -> float:
    return min((a[1] - b[1] for a, b in itertools.pairwise(ranked)), default=np.inf)


def trie_text(index: DocidIndex) -> str:
    """Print a trie, a state a line: its number, how it was reached, and the documents of a docid that ends there."""
    lines = []

    def visit(state: int, depth: int, token: str) -> None:
        docid = np.flatnonzero(np.asarray(index.docid_states) == state)
        rows = slice(*index.row_offsets[docid[0] : docid[0] + 2]) if docid.size else slice(0)
        documents = " ".join(map(str, index.documents[rows]))
        lines.append(f"{'  ' * depth}{token} ({state}){' = ' if documents else ''}{documents}")
        for edge in range(index.child_offsets[state], index.child_offsets[state + 1]):
            visit(edge + 1, depth + 1, str(index.child_tokens[edge]))

    visit(0, 0, "root")
    return "\n".join(lines)


def pad_index(
    index: DocidIndex, *, states: int, rows: int, root_fanout: int, max_fanout: int, max_length: int
) -> DocidIndex:
    """Give an index the shapes of a larger one, so that many small ones share a compiled search.

    Args:
        index: The index.
        states: Of the padded trie.
        rows: Of the padded trie, and docids likewise.
        root_fanout: Bound of the root's children.
        max_fanout: Bound of the other states' children.
        max_length: Bound of the docids' lengths.
    """

    def pad(array: np.ndarray, size: int, value: int) -> np.ndarray:
        return np.append(array, np.full(size - len(array), value, array.dtype))

    return dataclasses.replace(
        index,
        child_offsets=pad(index.child_offsets, states + 1, int(index.child_offsets[-1])),
        child_tokens=pad(index.child_tokens, states - 1, 0),
        prefix_nodes=pad(index.prefix_nodes, states, 0),
        docid_states=pad(index.docid_states, rows, np.iinfo(np.int32).max),
        row_offsets=pad(index.row_offsets, rows + 1, int(index.row_offsets[-1])),
        rows=pad(index.rows, rows, 0),
        documents=pad(index.documents, rows, 0),
        root_fanout=root_fanout,
        max_fanout=max_fanout,
        max_length=max_length,
    )
