"""Updates of an index, beside indexes built of the same rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.decoding_oracle import ended_docids, node_rows, padded_rows
from support.small_sets import LAYOUTS, laid_out, sets_of_sequences, template

from genret_jax.decoding import DocidIndex, TrieConstraint, beam_search, rank_documents
from genret_jax.decoding.building import rows_of, spelled
from genret_jax.errors import InputError


def random_docids(count, *, length=3, seed=0):
    return np.random.default_rng(seed).integers(0, 12, (count, length))


def rows_like(docids):
    return *padded_rows(docids), np.arange(len(docids)), node_rows(docids)


def assert_same_contents(index, other):
    """Equal but for the room."""
    count = other.num_docids
    assert index.num_docids == count
    for docid in range(count):
        np.testing.assert_array_equal(
            index.documents_of(np.array([docid]))[0], other.documents_of(np.array([docid]))[0]
        )
    for mine, its in zip(spelled(index), spelled(other), strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            width = min(mine.shape[-1], its.shape[-1])
            np.testing.assert_array_equal(mine[..., :width], its[..., :width])
            assert not mine[..., width:].any()
    np.testing.assert_array_equal(index.departs[:count], other.departs[:count])
    for mine, its in zip(rows_of(index), rows_of(other), strict=True):
        if mine is not None:
            width = its.shape[-1]
            np.testing.assert_array_equal(mine[..., :width], its)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    sequences=sets_of_sequences,
    always=st.booleans(),
    fates=st.lists(st.sampled_from(["stays", "goes", "comes"]), min_size=24, max_size=24),
    kind=st.sampled_from(LAYOUTS),
    with_nodes=st.booleans(),
)
def test_an_updated_index_is_the_one_that_would_be_built(sequences, always, fates, kind, with_nodes):
    """Array by array, whatever is removed and added: docids of several documents among them, in every layout."""
    docids = ended_docids(sequences, always=always)
    fate = np.array(fates[: len(docids)])
    held, goes, comes = fate != "comes", fate == "goes", fate == "comes"
    after = np.concatenate([np.flatnonzero(fate == "stays"), np.flatnonzero(comes)])
    assume(held.any() and len(after))
    fewest = min(len({docids[row] for row in rows}) for rows in (np.flatnonzero(held), after))
    kind = kind if fewest > template(kind).layout.window else "narrow"  # else too few for a wide root
    *named, nodes = rows_like(docids)

    def rows(which):
        return *(array[which] for array in named), nodes[which] if with_nodes else None

    added = rows(comes) if comes.any() else ()
    updated = laid_out(*rows(held), kind).updated(*added, remove=np.flatnonzero(goes))
    jax.tree.map(np.testing.assert_array_equal, updated, laid_out(*rows(after), kind))


def test_documents_come_and_go():
    """What is updated equals what is built from the rows that are left and the new ones."""
    docids = ended_docids(random_docids(600, seed=1).tolist())
    tokens, lengths, document, nodes = rows_like(docids)
    start = DocidIndex.build(tokens[:500], lengths[:500], document[:500], nodes[:500], vocab_size=12, room=0.5)
    gone = range(100, 200)
    updated = start.updated(tokens[500:], lengths[500:], document[500:], nodes[500:], remove=gone)
    kept = np.setdiff1d(np.arange(600), gone)
    assert_same_contents(
        updated, DocidIndex.build(tokens[kept], lengths[kept], document[kept], nodes[kept], vocab_size=12)
    )
    assert updated.layout == start.layout
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), updated) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), start
    )


def test_what_does_not_fit_is_laid_out_anew():
    tokens = random_docids(300)
    start = DocidIndex.build(tokens, np.full(300, 3), np.arange(300), vocab_size=12, room=0.1)
    more = random_docids(200, length=4, seed=5)
    updated = start.updated(more, np.full(200, 3), np.arange(300, 500))
    assert updated.layout != start.layout
    assert updated.layout.room == 0.1, "there is room again"
    both = np.concatenate([tokens, more[:, :3]])
    assert_same_contents(updated, DocidIndex.build(both, np.full(500, 3), np.arange(500), vocab_size=12))


def test_updates_that_cannot_be():
    index = DocidIndex.from_sequences([[5, 6], [5, 1], [5, 7, 8], [9], [5, 7, 9]], vocab_size=10, room=0.5)
    with pytest.raises(InputError, match="document 77 is not in the index"):
        index.updated(remove=[3, 77])
    with pytest.raises(InputError, match="no docids would be left"):
        index.updated(remove=range(5))
    with pytest.raises(InputError, match="token 10 at position 0"):
        index.updated(np.array([[10]]), np.array([1]), np.array([9]))
    with pytest.raises(InputError, match="prefix nodes for some docids only"):
        index.updated(np.array([[8]]), np.array([1]), np.array([9]), np.array([[0]]))
    with pytest.raises(InputError, match=r"docid 5 \[5\] is the beginning of docid 1 \[5, 1\]"):
        index.updated(np.array([[5]]), np.array([1]), np.array([9]))
    with pytest.raises(InputError, match=r"docid 2 \[9\] is the beginning of docid 3 \[9, 4\]"):
        index.updated(np.array([[9, 4]]), np.array([2]), np.array([9]), remove=[0, 4])


@functools.partial(jax.jit, static_argnames="beams")
def search(index, logits, beams):
    def step(tokens, prefix_nodes, cache, *, first):
        return jnp.broadcast_to(logits, (*tokens.shape, len(logits))), cache

    return beam_search(step, {"beams": {}, "shared": {}}, TrieConstraint(index), batch=1, beams=beams)


def results_of(index, logits, beams=4):
    return rank_documents(search(index, logits, beams), index).of(0)


def test_a_removed_atomic_docid_takes_its_token_with_it():
    index = DocidIndex.from_sequences([(0,), (1,), (2,), (3,)], vocab_size=4).updated(remove=[1])
    logits = jnp.array([0.0, 5.0, 3.0, 1.0])
    normaliser = float(jax.nn.logsumexp(logits))
    found = results_of(index, logits)
    assert [document for document, _ in found] == [2, 3, 0]
    np.testing.assert_allclose([score for _, score in found], np.array([3.0, 1.0, 0.0]) - normaliser, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.5]))
def test_atomic_docids_after_any_changes_are_those_of_a_rebuilt_index(data, room):
    """Changes at the root, whose children may be all tokens of their range before, after, or both."""
    vocabulary = 8
    tokens = dict(enumerate(data.draw(st.permutations(range(vocabulary)))[:5]))
    index = DocidIndex.from_sequences([(token,) for token in tokens.values()], vocab_size=vocabulary, room=room)
    logits = jnp.array(np.random.default_rng(0).standard_normal(vocabulary), jnp.float32)
    for _ in range(2):
        remove = data.draw(st.lists(st.sampled_from(sorted(tokens)), unique=True, max_size=len(tokens) - 1))
        free = [token for token in range(vocabulary) if token not in tokens.values()]
        added = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=2)) if free else []
        new = {max(tokens) + 1 + number: token for number, token in enumerate(added)}
        rows = np.array([[token] for token in added], np.int64).reshape(-1, 1)
        given_rows = (rows, np.ones(len(rows), np.int64), np.array([*new], np.int64)) if new else ()
        index = index.updated(*given_rows, remove=remove)
        tokens = {document: token for document, token in (tokens | new).items() if document not in remove}
        expected = sorted(tokens, key=lambda document: -float(logits[tokens[document]]))
        found = results_of(index, logits, beams=vocabulary)
        assert [document for document, _ in found] == expected
