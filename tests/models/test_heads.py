"""The prefix head against a loop over the tree, on hand-made and on random trees."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.models import IMPOSSIBLE, NodeTree, T5Config, heads
from genret_jax.models.config import ItemInput
from genret_jax.models.heads import PrefixHead
from genret_jax.models.item_input import WholeItems
from genret_jax.models.layers import Embed

WIDTH, VOCABULARY = 4, 11


def tree_of(children):
    """Make a NodeTree of {node: [(token, child), ...]}; the children's order is the tokens'."""
    size = 1 + max([child for edges in children.values() for _, child in edges])
    edges = [sorted(children.get(node, [])) for node in range(size)]
    offsets = np.cumsum([0, *map(len, edges)])
    flat = [edge for of_node in edges for edge in of_node]
    return NodeTree.build(offsets, np.array([child for _, child in flat]), np.array([token for token, _ in flat]))


def nodes_by_depth(children):
    levels = [[0]]
    while below := [child for node in levels[-1] for _, child in children.get(node, [])]:
        levels.append(below)
    return levels


def head_of(tree, spare=0, **changes):
    nodes = len(tree.child_offsets) - 1 + spare
    config = T5Config(decoder_vocab_size=VOCABULARY, d_model=WIDTH, head="prefix", num_nodes=nodes, **changes)
    head = PrefixHead(config)
    generator = np.random.default_rng(7)

    def drawn(rows):
        return jnp.asarray(generator.standard_normal((rows, WIDTH)), jnp.float32)

    params = {name: drawn(nodes) for name in ["input_nodes", "output_nodes"][: 2 - config.tie_embeddings]}
    codes = {name: {"embedding": drawn(VOCABULARY)} for name in ["input_codes", "output_codes"] if config.shared_codes}
    return head, params | codes


def oracle(children, rows, hidden, node, lookahead=False, codes=None):
    logits = np.full(VOCABULARY, IMPOSSIBLE, np.float32)
    for edge in children.get(node, []):
        judges = children.get(edge[1], []) if lookahead and node == 0 else []
        vectors = [rows[judge] + (0 if codes is None else codes[code]) for code, judge in judges or [edge]]
        logits[edge[0]] = np.logaddexp.reduce([np.dot(hidden, vector) for vector in vectors])
    return logits


# The root's children have consecutive ids in the first tree and not in the second, where a child was appended later.
TREES = {
    "consecutive": {0: [(2, 1), (5, 2), (9, 3)], 1: [(3, 4), (4, 5)], 3: [(1, 6), (3, 7), (10, 8)], 8: [(2, 9)]},
    "appended": {0: [(2, 1), (4, 7), (9, 2)], 1: [(3, 3), (4, 4)], 2: [(1, 5), (3, 6)], 7: [(2, 8)]},
    "one level": {0: [(2, 3), (3, 1), (6, 2), (7, 4)]},
    "consecutive tokens": {0: [(3, 1), (4, 6), (5, 2)], 1: [(2, 3)], 2: [(9, 4), (10, 5)]},
    "nodes are tokens": {0: [(token, token) for token in range(2, 9)]},
    "a chain": {0: [(2, 1)], 1: [(3, 2)], 2: [(4, 3)]},
    "wide below": {0: [(2, 1)], 1: [(3, 2), (4, 3)], 2: [(token, token + 2) for token in range(2, 9)], 4: [(2, 11)]},
}


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("name", "spare"), [*((name, 0) for name in TREES), ("appended", 5), ("nodes are tokens", 2)])
def test_logits_are_those_of_the_children(name, spare, shared, lookahead):
    children = TREES[name]
    tree = tree_of(children)
    head, params = head_of(tree, spare, root_lookahead=lookahead, shared_codes=shared)
    run = jax.jit(lambda hidden, nodes: head.apply({"params": params}, hidden, nodes, tree, method="logits"))
    levels, count = nodes_by_depth(children), len(tree.child_offsets) - 1
    nodes = np.stack([np.resize(level, count) for level in levels], axis=1)
    hidden = np.random.default_rng(1).standard_normal((*nodes.shape, WIDTH)).astype(np.float32)
    logits = run(hidden, nodes.astype(np.int32))
    rows = np.asarray(params["output_nodes"])
    codes = np.asarray(params["output_codes"]["embedding"]) if shared else None
    for b in range(count):
        for m in range(len(levels)):
            expected = oracle(children, rows, hidden[b, m], nodes[b, m], lookahead, codes)
            np.testing.assert_allclose(logits[b, m], expected, rtol=1e-5, atol=1e-6)


def test_with_lookahead_two_codes_of_one_thought_are_a_softmax_over_all_pairs():
    tree = tree_of({0: [(2, 1), (3, 2)], 1: [(4, 3), (5, 4), (6, 5)], 2: [(4, 6), (5, 7)], 3: [(2, 8)]})
    head, params = head_of(tree, root_lookahead=True)
    hidden = np.random.default_rng(2).standard_normal(WIDTH).astype(np.float32)
    nodes, both = jnp.array([[0, 1], [0, 2]]), jnp.tile(hidden, (2, 2, 1))
    chances = jax.nn.softmax(head.apply({"params": params}, both, nodes, tree, method="logits"), axis=-1)
    pairs = jax.nn.softmax(np.asarray(params["output_nodes"])[3:8] @ hidden)
    np.testing.assert_allclose(chances[0, 0, 2] * chances[0, 1, 4:7], pairs[:3], rtol=1e-5)
    np.testing.assert_allclose(chances[1, 0, 3] * chances[1, 1, 4:6], pairs[3:], rtol=1e-5)


def test_statics_of_the_tree():
    tree = tree_of(TREES["consecutive"])
    assert (tree.root_fanout, tree.max_fanout, tree.root_first_node) == (3, 3, 1)
    assert tree_of(TREES["appended"]).root_first_node == -1
    assert tree_of(TREES["one level"]).root_first_node == -1
    assert tree_of(TREES["consecutive"]).root_first_token == -1
    atomic = tree_of({0: [(2, 1), (3, 2), (4, 3)]})
    assert (atomic.root_fanout, atomic.max_fanout, atomic.root_first_node, atomic.root_first_token) == (3, 0, 1, 2)
    assert [tree_of(TREES[name]).fanouts for name in ("consecutive", "a chain", "wide below")] == [
        (3, 3, 1),
        (1, 1, 1),
        (1, 2, 7, 1),
    ]
    assert [name for name, children in TREES.items() if tree_of(children).rows_are_logits] == ["nodes are tokens"]
    # Node 2 is a leaf, so its window is the node itself; 6 is padding.
    assert tree.lookahead_nodes.tolist() == [4, 5, 2, 6, 7, 8]
    assert tree.lookahead_windows.tolist() == [[0, 1, 6], [2, 6, 6], [3, 4, 5]]
    assert (tree.first_lookahead_node, tree_of(TREES["a chain"]).first_lookahead_node, atomic.first_lookahead_node) == (
        -1,
        2,
        1,
    )
    # Statics are part of the structure, arrays are leaves: jit compiles again for another fan-out only.
    assert tree.lookahead_tokens.tolist() == [3, 4, 5, 1, 3, 10]
    assert len(jax.tree.leaves(tree)) == 6


def test_scores_of_children_go_to_their_tokens():
    tree = tree_of({0: [(2, 1), (4, 2)], 1: [(3, 3)], 2: [(1, 4), (3, 5), (5, 6)]})
    edges, exists = tree.edges_of(jnp.array([[1, 2]]), 3)
    assert exists.tolist() == [[[True, False, False], [True, True, True]]]
    found = tree.by_token(jnp.array([[[0.5, 8, 9], [1, 2, 3]]]), edges, exists, 6)
    x = IMPOSSIBLE
    assert found.tolist() == [[[x, x, x, 0.5, x, x], [x, 1, x, 2, x, 3]]]


def test_atomic_docids_never_gather_their_siblings():
    size = 5000
    tree = tree_of({0: [(token + 2, token + 1) for token in range(size)]})
    config = T5Config(decoder_vocab_size=size + 2, d_model=WIDTH, head="prefix", num_nodes=size + 1)
    params = {name: jnp.ones((size + 1, WIDTH)) for name in ("input_nodes", "output_nodes")}

    def step(hidden, nodes, at_root):
        return PrefixHead(config).apply({"params": params}, hidden, nodes, tree, at_root=at_root, method="logits")

    hidden, nodes = jnp.ones((1, 7, WIDTH)), jnp.ones((1, 7), jnp.int32)
    later = jax.make_jaxpr(lambda h, n: step(h, n, False))(hidden, nodes)
    assert "dot_general" not in str(later)
    assert float(step(hidden, nodes, False).max()) == IMPOSSIBLE
    assert float(step(hidden, nodes, True)[0, 0, 2]) == WIDTH


NODES = 12


@functools.partial(jax.jit, static_argnames="reading")
def window_logits(hidden, nodes, output_nodes, tree, reading):
    config = T5Config(decoder_vocab_size=VOCABULARY, d_model=WIDTH, head="prefix", num_nodes=NODES)
    params = {"input_nodes": output_nodes, "output_nodes": output_nodes}
    with mock.patch.object(heads, "_ROW_COST", reading):
        return PrefixHead(config).apply({"params": params}, hidden, nodes, tree, at_root=False, method="logits")


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from([0, 32]))
def test_windows_equal_the_oracle_on_random_trees(data, reading):
    # Nodes are made in a random order, as appended documents do. The static window may be wider than any fan-out, so
    # one compiled program serves all of these trees.
    children = {0: [(1, 1)]}
    for node in range(2, NODES):
        parents = [n for n in range(node) if len(children.get(n, [])) < VOCABULARY - 1]
        parent = data.draw(st.sampled_from(parents))
        free = [token for token in range(1, VOCABULARY) if token not in {t for t, _ in children.get(parent, [])}]
        children.setdefault(parent, []).append((data.draw(st.sampled_from(free)), node))
    tree = tree_of(children)
    no_lookahead = {
        "lookahead_nodes": jnp.zeros(0, jnp.int32),
        "lookahead_windows": jnp.zeros((0, 0), jnp.int32),
        "first_lookahead_node": -1,
    }
    tree = tree.replace(fanouts=(1, VOCABULARY - 1), root_first_node=-1, root_first_token=-1, **no_lookahead)
    nodes = np.array(data.draw(st.lists(st.integers(1, NODES - 1), min_size=4, max_size=4)), np.int32).reshape(2, 2)
    generator = np.random.default_rng(3)
    hidden = generator.standard_normal((2, 2, WIDTH), np.float32)
    rows = generator.standard_normal((NODES, WIDTH), np.float32)
    logits = window_logits(hidden, nodes, rows, tree, reading)  # row by row, or chosen from all products
    for b, k in np.ndindex(2, 2):
        np.testing.assert_allclose(
            logits[b, k], oracle(children, rows, hidden[b, k], nodes[b, k]), rtol=1e-4, atol=1e-6
        )


def test_gradient_reaches_the_children_and_nothing_else():
    children = TREES["appended"]
    tree = tree_of(children)
    head, params = head_of(tree, spare=3)
    hidden, nodes = jnp.ones((1, 3, WIDTH)), jnp.array([[0, 2, 0]])  # the last position is padding

    def loss(params):
        logits = head.apply({"params": params}, hidden, nodes, tree, method="logits")
        of_target = jax.nn.log_softmax(logits)[0, jnp.arange(3), jnp.array([9, 3, 0])]
        return (of_target * jnp.array([1.0, 1.0, 0.0])).sum()

    gradient = jax.jit(jax.grad(loss))(params)
    assert np.isfinite(gradient["output_nodes"]).all()
    touched = np.flatnonzero(np.abs(gradient["output_nodes"]).sum(axis=1))
    assert touched.tolist() == [1, 2, 5, 6, 7]  # the root's children and those of node 2


def test_embedding_is_the_node_s_row_and_may_be_tied():
    tree = tree_of(TREES["consecutive"])
    for tied in (False, True):
        head, params = head_of(tree, tie_embeddings=tied)
        vectors = head.apply({"params": params}, jnp.zeros((1, 2), int), jnp.array([[0, 3]]), method="embed")
        np.testing.assert_array_equal(vectors[0], params["input_nodes"][jnp.array([0, 3])])
        logits = head.apply({"params": params}, vectors, jnp.array([[0, 3]]), tree, method="logits")
        rows = params["input_nodes" if tied else "output_nodes"]
        np.testing.assert_allclose(logits[0, 1, 10], jnp.dot(vectors[0, 1], rows[8]), rtol=1e-5)


def test_without_nodes_or_tree_it_says_what_is_missing():
    head, params = head_of(tree_of(TREES["a chain"]))
    with pytest.raises(ValueError, match="decoder_prefix_nodes"):
        head.apply({"params": params}, jnp.zeros((1, 2), int), None, method="embed")
    with pytest.raises(ValueError, match="tree"):
        head.apply({"params": params}, jnp.zeros((1, 2, WIDTH)), jnp.zeros((1, 2), int), None, method="logits")


@pytest.mark.parametrize("name", ["consecutive", "appended", "one level", "consecutive tokens", "wide below"])
def test_whole_items_are_judged_by_the_sums_along_their_paths(name):
    """Codes that are a whole docid, and those whose nodes are judged by their children."""
    children = TREES[name]
    tree = tree_of(children)
    nodes = len(tree.child_offsets) - 1
    config = T5Config(
        vocab_size=VOCABULARY + 4,  # and users
        decoder_vocab_size=VOCABULARY,
        d_model=WIDTH,
        head="prefix",
        num_nodes=nodes,
        shared_codes=True,
        root_lookahead=True,
        item_input=ItemInput(leading=0, length=2, count=2, whole=True),
    )
    head = PrefixHead(config, WholeItems(config, Embed(config.vocab_size, WIDTH)))
    hidden = jax.random.normal(jax.random.key(3), (2, 1, WIDTH))
    root = jnp.zeros((2, 1), jnp.int32)
    params = head.init(jax.random.key(0), hidden, root, tree, method="logits")["params"]
    generator = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), jnp.float32), params)
    own, codes = np.asarray(params["items"]["nodes"]), np.asarray(params["items"]["embedding"]["embedding"])
    summed = np.zeros_like(own)
    for level in nodes_by_depth(children):
        for parent in level:
            for code, node in children.get(parent, []):
                summed[node] = summed[parent] + own[node] + codes[code]
    logits = head.apply({"params": params}, hidden, root, tree, method="logits")
    for b in range(2):
        np.testing.assert_allclose(logits[b, 0], oracle(children, summed, hidden[b, 0], 0, lookahead=True), rtol=1e-4)
