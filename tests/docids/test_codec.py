import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.docids.codec import render
from genret_jax.errors import InputError


def make(sequences, **options):
    names = [f"d{i}" for i in range(len(sequences))]
    return DocidTable.from_codes(names, sequences, strategy={}, corpus_fingerprint="", **options)


def digits(text):
    return [10 + int(character) for character in text]


def test_per_level_tokens_by_hand():
    table = make([(1, 2), (1, 2, 3), (0,)])  # nodes: 1 = (0), 2 = (1), 3 = (1 2), 4 = (1 2 3), 5 = end of (1 2)
    codec = DocidCodec(first_token=100, level_sizes=(2, 3, 4))
    encoded = codec.encode(table)
    assert codec.vocab_size == 109
    assert encoded.tokens.tolist() == [[101, 104, 1], [101, 104, 108], [100, 0, 0]]
    assert encoded.lengths.tolist() == [3, 3, 1]
    assert encoded.prefix_nodes.tolist() == [[0, 2, 3], [0, 2, 3], [0, 0, 0]]
    assert encoded.tree.child_offsets.tolist() == [0, 2, 2, 3, 5, 5, 5]
    assert encoded.tree.child_nodes.tolist() == [1, 2, 3, 5, 4]
    assert encoded.tree.child_tokens.tolist() == [100, 101, 104, 1, 108]
    assert encoded.tree.node_token.tolist() == [0, 100, 101, 104, 108, 1]


def test_the_tree_of_some_documents_by_hand():
    encoded = DocidCodec(first_token=100, level_sizes=(2, 3, 4)).encode(make([(1, 2), (1, 2, 3), (0,)]))
    tree = encoded.tree_of(np.array([True, False, False]))
    assert tree.child_offsets.tolist() == [0, 1, 1, 2, 3, 3, 3]
    assert tree.child_nodes.tolist() == [2, 3, 5]
    assert tree.child_tokens.tolist() == [101, 104, 1]
    everything = encoded.tree_of(np.ones(3, bool))
    np.testing.assert_array_equal(everything.child_nodes, encoded.tree.child_nodes)
    np.testing.assert_array_equal(everything.child_offsets, encoded.tree.child_offsets)


def test_shared_tokens_with_an_end_everywhere():
    table = make([(1, 2), (0,)])  # nodes: 1 = (0), 2 = (1), 3 = (1 2); ends 4 after 1 and 5 after 3
    codec = DocidCodec(kind="shared", first_token=2, level_sizes=(2, 3), eos="always")
    encoded = codec.encode(table)
    assert codec.vocab_size == 5
    assert encoded.tokens.tolist() == [[3, 4, 1], [2, 1, 0]]
    assert encoded.prefix_nodes.tolist() == [[0, 2, 3], [0, 1, 0]]
    assert encoded.tree.child_nodes.tolist() == [1, 2, 4, 3, 5]
    assert encoded.tree.node_token.tolist() == [0, 2, 3, 4, 1, 1]


def test_text_tokens_have_a_tree_of_their_own():
    table = make([(1, 2), (1, 12), (0, 2)], level_sizes=(2, 13))
    codec = DocidCodec(kind="text", first_token=32, level_sizes=(2, 13), encode_text=digits)
    encoded = codec.encode(table)
    assert render(table) == ["102", "112", "002"]
    assert codec.vocab_size == 32
    assert encoded.tokens.tolist() == [[11, 10, 12, 1], [11, 11, 12, 1], [10, 10, 12, 1]]
    assert encoded.lengths.tolist() == [4, 4, 4]
    assert encoded.tree.num_nodes == 1 + 2 + 3 + 3 + 3
    assert encoded.tree.child_offsets[1] == 2


def test_nodes_numbered_as_their_tokens():
    table = make([(4,), (0,), (4,), (1,)], level_sizes=(6,))  # codes 2, 3 and 5 are free
    encoded = DocidCodec(first_token=2, level_sizes=(6,), nodes="tokens").encode(table)
    assert encoded.tokens.tolist() == [[6], [2], [6], [3]]
    assert encoded.prefix_nodes.tolist() == [[0]] * 4
    assert encoded.tree.num_nodes == 8
    assert encoded.tree.child_nodes.tolist() == encoded.tree.child_tokens.tolist() == [2, 3, 6]
    assert encoded.tree.child_offsets.tolist() == [0, *[3] * 8]


sequences = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4).map(tuple), min_size=1, max_size=20)
codecs = st.sampled_from(
    [
        DocidCodec(first_token=7, level_sizes=(12, 20, 12, 15)),
        DocidCodec(first_token=2, level_sizes=(12, 12, 12, 12), eos="always"),
        DocidCodec(kind="shared", first_token=50, level_sizes=(12, 12, 12, 12)),
        DocidCodec(kind="shared", first_token=50, level_sizes=(12, 12, 12, 12), eos="always"),
        DocidCodec(kind="text", first_token=20, level_sizes=(12, 12, 12, 12), encode_text=digits),
    ]
)


@settings(max_examples=150, deadline=None)
@given(sequences, codecs)
def test_every_codec_agrees_with_a_dictionary_trie(rows, codec):
    encoded = codec.encode(make(rows))
    expected = [_tokens(codec, codes, rows) for codes in rows]
    found = [row[:length].tolist() for row, length in zip(encoded.tokens, encoded.lengths, strict=True)]
    assert found == expected
    assert (np.arange(encoded.tokens.shape[1]) >= encoded.lengths[:, None])[encoded.tokens == 0].all()
    _check_tree(encoded)


def _tokens(codec, codes, rows):
    if codec.kind == "text":
        return [*digits("".join(f"{code:02d}" for code in codes)), 1]
    first = [codec.first_token + sum(codec.level_sizes[:level]) for level in range(4)]
    tokens = [codec.first_token + c if codec.kind == "shared" else first[level] + c for level, c in enumerate(codes)]
    is_prefix = any(other[: len(codes)] == codes and len(other) > len(codes) for other in rows)
    return tokens + [1] * (is_prefix or codec.eos == "always")


def _check_tree(encoded):
    """Walk the CSR tree along every row, and find in it exactly the prefixes of the rows."""
    tree, reached = encoded.tree, {0: ()}
    for tokens, nodes, length in zip(
        encoded.tokens.tolist(), encoded.prefix_nodes.tolist(), encoded.lengths, strict=True
    ):
        node = 0
        for position in range(length):
            assert nodes[position] == node
            start, end = tree.child_offsets[node : node + 2]
            children = tree.child_tokens[start:end].tolist()
            assert children == sorted(set(children))
            node = int(tree.child_nodes[start + children.index(tokens[position])])
            assert tree.node_token[node] == tokens[position]
            assert reached.setdefault(node, tuple(tokens[: position + 1])) == tuple(tokens[: position + 1])
        assert tree.child_offsets[node] == tree.child_offsets[node + 1]  # a complete docid is a leaf
        assert not any(nodes[length:])
    assert sorted(reached) == list(range(tree.num_nodes))


def test_old_tokens_stay_when_documents_are_appended_within_the_codecs_room():
    codec = DocidCodec(first_token=10, level_sizes=(4, 6))
    old = make([(0, 1), (1, 2)])
    before, after = codec.encode(old), codec.encode(old.append(["x", "y"], [(3, 5), (0, 0)]))
    assert after.tokens[:2].tolist() == before.tokens.tolist()
    assert after.prefix_nodes[:2].tolist() == before.prefix_nodes.tolist()
    assert after.tree.node_token[: before.tree.num_nodes].tolist() == before.tree.node_token.tolist()


def test_codes_beyond_the_codec_are_refused():
    with pytest.raises(InputError, match=r"levels of sizes \(1, 8\).*at most the codec's \(4, 6\)"):
        DocidCodec(first_token=2, level_sizes=(4, 6)).encode(make([(0, 7)]))
    with pytest.raises(InputError, match="levels of sizes"):
        DocidCodec(first_token=2, level_sizes=(4,)).encode(make([(0, 0)]))


def test_a_vocabulary_that_loses_digits_is_refused():
    table = make([(0,), (1,), (2,)])
    alike = DocidCodec(kind="text", first_token=9, level_sizes=(3,), encode_text=lambda text: [2 + (text == "1")])
    with pytest.raises(InputError, match="the docids '0' and '2' alike"):
        alike.encode(table)
    pads = DocidCodec(kind="text", first_token=9, level_sizes=(3,), encode_text=lambda text: [int(text)])
    with pytest.raises(InputError, match=r"docid '0' as \[0\].*from 2 to 8"):
        pads.encode(table)


def test_json_round_trip():
    for fields in ({"level_sizes": (3, 4), "eos": "always"}, {"level_sizes": (9,), "nodes": "tokens"}):
        codec = DocidCodec(kind="shared", first_token=5, **fields)
        assert DocidCodec.from_json(json.loads(json.dumps(codec.to_json()))) == codec
    text = DocidCodec(kind="text", first_token=5, level_sizes=(3,), encode_text=digits)
    assert DocidCodec.from_json(json.loads(json.dumps(text.to_json())), encode_text=digits) == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first_token": 1, "level_sizes": (3,)}, "first_token is 1"),
        ({"first_token": 2, "level_sizes": ()}, "level_sizes"),
        ({"first_token": 2, "level_sizes": (2**30, 2**30)}, "level_sizes is .*below 2.*31"),
        ({"first_token": 2, "level_sizes": (3,), "kind": "text"}, "encode_text is None"),
        ({"first_token": 2, "level_sizes": (3,), "encode_text": digits}, "encode_text"),
        ({"first_token": 2, "level_sizes": (3, 3), "nodes": "tokens"}, "nodes is 'tokens'"),
        ({"first_token": 2, "level_sizes": (3,), "nodes": "tokens", "eos": "always"}, "nodes is 'tokens'"),
    ],
)
def test_a_codec_checks_its_fields(fields, message):
    with pytest.raises(InputError, match=message):
        DocidCodec(**fields)


def test_no_documents_encode_to_nothing():
    encoded = DocidCodec(first_token=2, level_sizes=(3,)).encode(make([]))
    assert encoded.tokens.shape == (0, 0)
    assert encoded.tree.num_nodes == 1
