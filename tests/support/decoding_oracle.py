"""Beam search and trie in plain Python: slow, short, and read at a glance."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from genret_jax.decoding import DocidIndex
from genret_jax.decoding.building import edge_codes, spelled

Docid = tuple[int, ...]
LogProbs = Callable[[Docid], np.ndarray]  # tokens emitted so far -> log-probabilities of the next one


class Found(NamedTuple):
    """What an oracle finds for one query."""

    docids: list[tuple[Docid, float]]  # with their scores, best first
    margin: float  # the closest decision on the way: below about 1e-4, float32 may decide otherwise
    bound: float = -np.inf  # the best prefix that was dropped


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
    docids, margin, bound = set(docids), np.inf, -np.inf
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
            bound = max(bound, candidates[beams][1])
        kept = candidates[:beams]
    return Found(kept, min(margin, _closest(kept)), bound)


def oracle_exhaustive(docids: Iterable[Docid], log_probs: LogProbs, beams: int) -> Found:
    """Score every docid; equal scores go to the lower tokens."""
    scored = []
    for docid in sorted(set(docids)):
        steps = [log_probs(docid[:length])[token] for length, token in enumerate(docid)]
        scored.append((docid, float(np.sum(steps))))
    scored.sort(key=lambda pair: -pair[1])
    return Found(scored[:beams], _closest(scored[: beams + 1]))


def _closest(ranked: list[tuple[Docid, float]]) -> float:
    return min((a[1] - b[1] for a, b in itertools.pairwise(ranked)), default=np.inf)


def prefix_numbers(docids: Iterable[Docid]) -> dict[Docid, int]:
    """Number all prefixes, as nodes that a model may be told about."""
    prefixes = {docid[:length] for docid in docids for length in range(len(docid) + 1)}
    return {prefix: number for number, prefix in enumerate(sorted(prefixes))}


def node_rows(docids: Sequence[Docid], width: int | None = None) -> np.ndarray:
    """Return the number of each docid's prefix before each token ``[r, m]``, 0 beyond the end."""
    numbers = prefix_numbers(docids)
    nodes = np.zeros((len(docids), width or max(map(len, docids))), np.int32)
    for row, docid in enumerate(docids):
        nodes[row, : len(docid)] = [numbers[docid[:length]] for length in range(len(docid))]
    return nodes


def index_text(index: DocidIndex) -> str:
    """Print an index: its wide prefixes with their edges, and each docid with where it departs and its documents."""
    lines, offsets = [], np.asarray(index.edge_offsets)
    edge_tokens = edge_codes(index) if index.layout.capacity.wide else np.zeros(0, int)
    for wide in range(index.layout.capacity.wide):
        edges = range(offsets[wide], offsets[wide + 1])
        lines.append(f"~{wide}: " + ", ".join(f"{edge_tokens[e]} to {_name(int(index.edge_states[e]))}" for e in edges))
    tokens, lengths, _ = spelled(index)
    for docid, (spelt, length) in enumerate(zip(tokens, lengths, strict=True)):
        documents = index.documents_of(np.array([docid]))[0]
        text = " ".join(map(str, spelt[:length]))
        lines.append(f"{docid}: {text} departs {index.departs[docid]} = {' '.join(map(str, documents))}")
    return "\n".join(lines)


def _name(state: int) -> str:
    return f"~{~state}" if state < 0 else str(state)
