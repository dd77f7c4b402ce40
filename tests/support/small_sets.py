"""Small docid sets in shapes that all of them share, so that thousands are searched by a few compiled programs."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from genret_jax.decoding import INVALID, BeamResult, DocidIndex, beam_search
from genret_jax.decoding.building import build_members, checked_rows
from genret_jax.decoding.layout import Capacity, Layout
from support.decoding_oracle import Docid, LogProbs, node_rows, padded_rows, prefix_numbers
from support.fake_model import FakeModel

VOCAB, BATCH, ROWS, LENGTH = 9, 2, 24, 5
MODEL = FakeModel(vocab_size=VOCAB)
LAYOUTS = ("narrow", "lists", "bits", "wide")

_sequence = st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=LENGTH - 1)
_unary = st.integers(2, VOCAB - 1).map(lambda token: [token] * (LENGTH - 1))
_skewed = st.lists(st.sampled_from([2, 2, 2, 2, 3]), min_size=1, max_size=LENGTH - 1)
_repeated = st.lists(st.sampled_from([[2, 3], [2, 3, 4], [2, 4], [5], [5] * (LENGTH - 1)]), min_size=1, max_size=ROWS)
_dense = st.lists(st.integers(2, 4), min_size=LENGTH - 1, max_size=LENGTH - 1)
sets_of_sequences = st.one_of(
    st.lists(_sequence, min_size=1, max_size=ROWS),
    st.lists(st.one_of(_unary, _sequence), min_size=1, max_size=6),
    st.lists(_skewed, min_size=1, max_size=ROWS),
    _repeated,
    st.lists(_dense, min_size=5, max_size=ROWS),
)


@functools.partial(jax.jit, static_argnames=("model", "beams", "at_once"))
def _search(strategy: Any, cache: Any, model: Any, beams: int, at_once: bool) -> BeamResult:
    batch, forced = cache["shared"]["query"].shape[0], model.forced if at_once else None
    return beam_search(model.step, cache, strategy, batch=batch, beams=beams, forced=forced)


def search(strategy: Any, beams: int, model: FakeModel = MODEL, at_once: bool = False) -> BeamResult:
    """Search for every query of a batch."""
    # Seed and levels are in the cache, so models that differ in nothing else share a compiled program.
    same = dataclasses.replace(model, seed=0, levels=1)
    return _search(strategy, model.cache(BATCH), same, beams, at_once)


def index_of(docids: Sequence[Docid], vocab_size: int = VOCAB) -> DocidIndex:
    """Build the index of docids, whose nodes are numbers of their prefixes."""
    tokens, lengths = padded_rows(docids)
    return DocidIndex.build(tokens, lengths, np.arange(len(docids)), node_rows(docids), vocab_size=vocab_size)


@functools.cache
def template(kind: str) -> DocidIndex:
    """Return an index of the largest shapes.

    Its prefixes are all narrow; or narrow and wide, whose children are listed or bits; or all wide but single docids,
    the children at one depth being bits and at the next listed.
    """
    window, rows = {"narrow": (64, ROWS), "lists": (3, 3), "bits": (3, 3), "wide": (1, 1)}[kind]
    dense = {"bits": (True,) * LENGTH, "wide": (True, False) * LENGTH}.get(kind, (False,) * LENGTH)
    wide = kind != "narrow"
    layout = Layout(
        max_length=LENGTH,
        window=window,
        edges=(VOCAB * wide,) * LENGTH,
        rows=(ROWS if not wide else 0, *(rows,) * (LENGTH - 1)),
        spans=(VOCAB,) * LENGTH,
        dense=dense[:LENGTH],
        forced_from=1,
        mixed=True,
        consecutive=False,
        capacity=Capacity(
            docids=ROWS,
            rows=ROWS,
            wide=ROWS * LENGTH * wide,
            edges=ROWS * LENGTH * wide,
            bitmaps=ROWS * LENGTH * any(dense),
        ),
        room=1.0,
    )
    start = index_of([(2,), (3,)])
    zeros = np.zeros(ROWS + ROWS, np.uint8)
    return dataclasses.replace(
        start, layout=layout, first_tokens=np.zeros(LENGTH, np.int32), lengths=zeros, columns=zeros
    )


def laid_out(
    tokens: np.ndarray, lengths: np.ndarray, document: np.ndarray, nodes: np.ndarray | None, kind: str
) -> DocidIndex:
    """Build the index of the rows of a small set, in shapes that all of them share."""
    rows = checked_rows(tokens, lengths, document, nodes, VOCAB)
    index = DocidIndex(**build_members(rows, vocab_size=VOCAB, room=1.0, like=template(kind)))
    assert index.layout == template(kind).layout
    return index


def bucketed(docids: Sequence[Docid], kind: str = "narrow") -> DocidIndex:
    """Build the index of a small set, whose nodes are numbers of its prefixes."""
    if len(set(docids)) <= template(kind).layout.window:  # too few for a wide root
        kind = "narrow"
    return laid_out(*padded_rows(docids), np.arange(len(docids)), node_rows(docids), kind)


def log_probs_of(model: FakeModel, docids: Sequence[Docid], query: int) -> LogProbs:
    """Return what follows a prefix, for an index whose nodes are numbers of the prefixes."""
    numbers = prefix_numbers(docids)

    def following(prefix: Docid) -> np.ndarray:
        return model.log_probs(query, prefix, [numbers[prefix[:length]] for length in range(len(prefix) + 1)])

    return functools.cache(following)


def without_nodes(model: FakeModel, query: int) -> Callable[[Docid], np.ndarray]:
    """Return what follows a prefix, for an index that knows no nodes."""
    return lambda prefix: model.log_probs(query, prefix, [0] * (len(prefix) + 1))


def found_by(result: BeamResult, query: int) -> list[tuple[Docid, float]]:
    """Return the valid places of a result, as an oracle tells them."""
    kept = np.asarray(result.valid)[query]
    assert not kept[kept.sum() :].any(), "what is invalid comes last"
    return [
        (tuple(tokens.tolist()), float(score))
        for tokens, score in zip(
            np.asarray(result.tokens)[query][kept], np.asarray(result.scores)[query][kept], strict=True
        )
    ]


def unpadded(tokens: Any, docids: Collection[Docid]) -> Docid:
    """Return the docid behind zero-padded tokens (0 is no token of these sets)."""
    docid = tuple(int(token) for token in tokens if token)
    assert docid in docids, "only members of the set come out"
    return docid


def assert_found(
    result: BeamResult,
    query: int,
    expected: Sequence[tuple[Docid, float]],
    docids: Sequence[Docid],
    width: int | None = None,
) -> None:
    """Compare one query's results with an oracle's: docids, order, scores, rows and what is invalid."""
    found = found_by(result, query)
    spelt = [tokens[:width] if width else unpadded(tokens, docids) for tokens, _ in found]
    assert spelt == [docid for docid, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=2e-5)
    first_rows = {docid: row for row, docid in reversed(list(enumerate(docids)))}
    wanted = [first_rows[docid] for docid, _ in expected]
    np.testing.assert_array_equal(np.asarray(result.rows)[query, : len(found)], wanted)
    for leaf, value in ((result.rows, -1), (result.docids, -1), (result.scores, INVALID), (result.tokens, 0)):
        assert (np.asarray(leaf)[query, len(found) :] == np.float32(value)).all()
