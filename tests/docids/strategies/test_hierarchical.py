from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.docids import HierarchicalKMeans, ResidualKMeans
from genret_jax.errors import InputError


def assign(vectors, strategy, seed=0):
    return strategy.assign([f"d{i}" for i in range(len(vectors))], np.asarray(vectors, np.float32), seed, "corpus")


def nested(branching, depth, each, width=4, seed=0):
    """Clusters of clusters far apart: the path of each vector is known."""
    random = np.random.default_rng(seed)
    centers, paths = np.zeros((1, width)), [()]
    for level in range(depth):
        moves = np.linalg.qr(random.standard_normal((width, width)))[0][:branching] * 100 / 8**level
        centers = (centers[:, None] + moves[None]).reshape(-1, width)
        paths = [(*path, code) for path in paths for code in range(branching)]
    vectors = np.repeat(centers, each, 0) + 0.01 * random.standard_normal((len(centers) * each, width))
    return vectors, np.repeat(np.array(paths), each, 0)


def test_clusters_of_clusters_are_found():
    vectors, paths = nested(branching=3, depth=3, each=4)
    table = assign(vectors, HierarchicalKMeans(branching=3, leaf_size=4))
    codes = table.padded()
    assert table.level_sizes == (3, 3, 3, 4)
    for depth in (1, 2, 3):
        pairs = {(tuple(path), tuple(code)) for path, code in zip(paths[:, :depth], codes[:, :depth], strict=True)}
        assert len(pairs) == 3**depth  # the same partition, up to the names of clusters
    assert sorted(codes[:4, 3].tolist()) == [0, 1, 2, 3]


def test_positions_in_a_leaf_go_by_distance_then_by_index():
    table = assign([[3.0], [0.0], [1.0], [0.0], [1.0]], HierarchicalKMeans(branching=2, leaf_size=5))  # mean 1
    assert table.padded().tolist() == [[4], [2], [0], [3], [1]]
    assert table.level_sizes == (5,)


def test_levels_hold_inner_branches_and_leaf_positions():
    vectors = np.concatenate([np.full((3, 1), -9.0), np.arange(9).reshape(-1, 1) / 9 + 5])
    table = assign(vectors, HierarchicalKMeans(branching=2, leaf_size=5))
    assert {len(table.docid(row)) for row in range(3)} == {2}
    assert table.level_sizes[:2] == (2, 5)  # the second level has both leaves and inner clusters
    assert max(len(table.docid(row)) for row in range(3, 12)) >= 3


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 4, 21, 100]),
    st.sampled_from([(3, 1), (3, 5), (3, 20)]),
    st.integers(1, 6),
    st.integers(0, 2**31),
)
def test_every_docid_is_unique_and_no_cluster_is_too_large(count, sizes, distinct, seed):
    branching, leaf_size = sizes
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((distinct, 4))[random.integers(0, distinct, count)]
    table = assign(vectors, HierarchicalKMeans(branching=branching, leaf_size=leaf_size), seed)
    codes = [table.docid(row) for row in range(count)]
    assert len(set(codes)) == count
    leaves, inner = Counter(code[:-1] for code in codes), Counter(c[:i] for c in codes for i in range(len(c) - 1))
    assert max(leaves.values()) <= leaf_size
    assert all(total > leaf_size for total in inner.values())
    assert not set(leaves) & set(inner)  # a cluster is a leaf or is divided, never both
    assert all(sorted(c[-1] for c in codes if c[:-1] == leaf) == list(range(leaves[leaf])) for leaf in leaves)
    assert all(c < branching for code in codes for c in code[:-1])


def test_equal_vectors_are_cut_into_equal_parts():
    table = assign(np.ones((250, 3)), HierarchicalKMeans(branching=4, leaf_size=20))
    codes = [table.docid(row) for row in range(250)]
    assert Counter(code[0] for code in codes) == {0: 63, 1: 62, 2: 63, 3: 62}
    assert max(Counter(code[:2] for code in codes).values()) == 16
    assert codes == sorted(codes)  # in document order


def test_equal_vectors_beside_others_end_too():
    random = np.random.default_rng(0)
    vectors = np.concatenate([np.zeros((300, 4)), random.standard_normal((50, 4)), np.full((40, 4), 1e-20)])
    table = assign(vectors, HierarchicalKMeans(branching=3, leaf_size=10))
    assert len({table.docid(row) for row in range(390)}) == 390
    assert max(table.lengths) <= 12


def test_ever_farther_outliers_end_too():
    vectors = np.concatenate([2.0 ** np.arange(-60, 60)[:, None], np.zeros((5, 1))])
    table = assign(vectors, HierarchicalKMeans(branching=2, leaf_size=2))
    assert len({table.docid(row) for row in range(125)}) == 125
    assert max(table.lengths) <= 20


def test_the_seed_decides():
    vectors = np.random.default_rng(1).standard_normal((300, 4))
    tables = [assign(vectors, HierarchicalKMeans(branching=3, leaf_size=20), seed) for seed in (0, 0, 1)]
    assert tables[0].fingerprint == tables[1].fingerprint != tables[2].fingerprint
    assert tables[0].strategy == {"name": "semantic", "branching": 3, "leaf_size": 20, "seed": 0}


def test_residual_codes_rebuild_the_vectors():
    vectors = np.random.default_rng(2).standard_normal((400, 6)).astype(np.float32)
    errors = []
    for levels in (1, 2, 3):
        codes = assign(vectors, ResidualKMeans(levels=levels, codebook=16, separate=False)).padded()
        assert codes.shape == (400, levels)
        rebuilt = np.zeros_like(vectors)
        for level in range(levels):  # centroids are the means of what is left, so codes alone determine them
            left = vectors - rebuilt
            sums, counts = np.zeros((16, 6), np.float32), np.bincount(codes[:, level], minlength=16)
            np.add.at(sums, codes[:, level], left)
            rebuilt += (sums / np.maximum(counts, 1)[:, None])[codes[:, level]]
        errors.append(((vectors - rebuilt) ** 2).sum() / (vectors**2).sum())
    assert errors[0] < 0.6
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.7 * errors[1]


def test_the_last_residual_code_separates_documents():
    vectors = np.repeat(np.array([[0.0, 0], [5, 5], [9, 0]]), [3, 1, 2], axis=0)
    codes = assign(vectors, ResidualKMeans(levels=2, codebook=3)).padded()
    assert codes[:, -1].tolist() == [0, 1, 2, 0, 0, 1]
    shared = assign(vectors, ResidualKMeans(levels=2, codebook=3, separate=False))
    assert len(set(shared.row_node.tolist())) == 3


@pytest.mark.parametrize("strategy", [HierarchicalKMeans(), ResidualKMeans()])
@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "without document vectors"),
        (np.zeros((3, 2)), "3 vectors for 2 documents"),
        (np.zeros(2), r"vectors float64\[2\]"),
        (np.array([[1.0], [np.nan]]), "row 1, of document 'b', is not finite"),
    ],
)
def test_unusable_vectors_are_refused(strategy, vectors, message):
    with pytest.raises(InputError, match=message):
        strategy.assign(["a", "b"], vectors, 0, "")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: HierarchicalKMeans(branching=1), "branching is 1"),
        (lambda: HierarchicalKMeans(leaf_size=0), "leaf_size is 0"),
        (lambda: ResidualKMeans(codebook=1), "codebook is 1"),
    ],
)
def test_strategies_check_their_fields(make, field):
    with pytest.raises(InputError, match=field):
        make()
