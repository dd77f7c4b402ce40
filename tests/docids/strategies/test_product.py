"""Product quantisation: sub-spaces, their order, and rotations that leave less over."""

import numpy as np
import pytest
from support.quantisers import fit_quantiser

from genret_jax.docids import ProductQuantization, append_documents
from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.rotation import balanced_axes, natural_axes, optimised
from genret_jax.docids.strategies.product import ProductQuantiser, product_codebooks
from genret_jax.errors import InputError
from genret_jax.models.plan_start import codewords

pytestmark = pytest.mark.usefixtures("one_device")

NAMES = [f"d{number}" for number in range(400)]


def correlated(count, width, seed=0):
    """Vectors of few strong and many weak directions, none of them an axis."""
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.standard_normal((width, width)))[0]
    mixed = random.standard_normal((count, width)) * np.geomspace(1, 0.02, width) + 3
    return (mixed @ turned).astype(np.float32)


def error(strategy, vectors):
    return fit_quantiser(strategy, vectors).relative_errors(vectors)[-1]


def used(axes):
    """The axes themselves, without the zeros of levels that have one less."""
    flat = axes.reshape(-1, axes.shape[-1])
    return flat[flat.any(1)]


def test_codes_by_hand():
    axes = np.array([[[1.0, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]], np.float32)  # the second level has one axis
    codebooks = np.array([[[0, 0], [3, 4], [9, 0]], [[-1, 0], [1, 0], [5, 0]]], np.float32)
    arrays = {"mean": np.array([10.0, 20, 30], np.float32), "axes": axes, "codebooks": codebooks}
    quantiser = ProductQuantiser(level_sizes=(3, 3), arrays=arrays)
    codes = quantiser.codes(np.array([[13.0, 21, 34], [10, 19, 30], [18, 24.5, 29]]))
    assert codes.tolist() == [[1, 1], [0, 0], [2, 2]]
    assert quantiser.reconstruct(codes).tolist() == [[13, 21, 34], [10, 19, 30], [19, 25, 30]]
    assert quantiser.reconstruct(codes[:, :1]).tolist() == [[13, 20, 34], [10, 20, 30], [19, 20, 30]]


def test_levels_find_the_values_of_their_sub_vectors_and_the_widest_comes_first():
    first, second = np.array([[0.0, 0], [1, 1]]), np.array([[0.0, 9], [4, 0], [9, 9]])
    vectors = np.array([[*left, *right] for left in first for right in second]).astype(np.float32)
    quantiser = fit_quantiser(ProductQuantization(levels=2, codebook=3, rotation=False), vectors)
    codes = quantiser.codes(vectors)
    assert [len(set(column)) for column in codes.T.tolist()] == [3, 2]
    np.testing.assert_array_equal(codes[:3, 0], codes[3:, 0])
    np.testing.assert_allclose(quantiser.reconstruct(codes), vectors, atol=1e-5)
    np.testing.assert_array_equal(used(quantiser.arrays["axes"]), np.eye(4)[[2, 3, 0, 1]])


@pytest.mark.parametrize("rotation", [True, False])
def test_no_other_order_of_the_codes_leaves_less_after_the_first_ones(rotation):
    vectors = correlated(400, 10)
    quantiser = fit_quantiser(ProductQuantization(levels=4, codebook=8, rotation=rotation), vectors)
    left = np.array([1, *quantiser.relative_errors(vectors)])
    explained = -np.diff(left)
    assert (explained > 0).all()
    np.testing.assert_array_equal(explained, sorted(explained, reverse=True))


def test_variances_are_dealt_out_by_their_products():
    """8 to one level; 4 and 2 to the other, whose product is smaller; 1 to the one that has room."""
    vectors = np.kron(np.diag(np.sqrt([1.0, 8, 2, 4])), np.array([[1], [-1]])).astype(np.float32)
    axes = balanced_axes(vectors, 2)
    assert [sorted(np.flatnonzero(np.abs(level).sum(0) > 0.5).tolist()) for level in axes] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("width", "levels"), [(10, 4), (5, 5)])
def test_all_axes_are_kept_and_are_orthonormal(width, levels):
    vectors = correlated(400, width)
    vectors -= vectors.mean(0)
    start = product_codebooks(vectors, levels, 8, 0, rotation=True)
    for axes in (natural_axes(width, levels), balanced_axes(vectors, levels), start["axes"]):
        assert axes.shape == (levels, -(-width // levels), width)
        np.testing.assert_allclose(used(axes) @ used(axes).T, np.eye(width), atol=1e-5)


def test_rotations_leave_less_over():
    vectors = correlated(400, 10)
    plain, turned = (
        error(ProductQuantization(levels=4, codebook=8, rotation=given), vectors) for given in (False, True)
    )
    assert turned < 0.8 * plain


def test_a_rotation_that_is_off_is_put_right():
    """Vectors of two independent sub-vectors with four values each."""
    random = np.random.default_rng(0)
    values = np.array([[1.0, 0, 0], [0, 1, 0], [-1, -1, 0.5], [0, 0, -0.5]], np.float32)
    vectors = values[random.integers(0, 4, (400, 2))].reshape(400, 6)
    vectors += 0.02 * random.standard_normal((400, 6), np.float32) - vectors.mean(0)
    axes = np.linalg.qr(np.eye(6) + 0.2 * random.standard_normal((6, 6)))[0].astype(np.float32).reshape(2, 3, 6)
    codebooks = np.stack([KMeans(clusters=4).fit(vectors @ part.T, 0).centroids[0] for part in axes])

    def left(axes, codebooks):
        arrays = {"mean": np.zeros(6, np.float32), "axes": axes, "codebooks": codebooks}
        return ProductQuantiser(level_sizes=(4, 4), arrays=arrays).relative_errors(vectors)[-1]

    assert left(axes, codebooks) > 0.03
    assert left(*optimised(vectors, axes, codebooks)) < 0.003


def test_documents_with_equal_codes_are_told_apart_or_share_a_docid():
    vectors = np.repeat(np.array([[0.0, 0], [5, 5], [9, 0]]), [3, 1, 2], axis=0)
    strategy = ProductQuantization(levels=2, codebook=3)
    quantiser, table = strategy.fit_and_assign(NAMES[:6], vectors, 0, "")
    assert table.padded()[:, -1].tolist() == [0, 1, 2, 0, 0, 1]
    grown = append_documents(table, quantiser, ["new"], vectors[:1])
    assert grown.padded()[6].tolist() == [*table.padded()[0, :2], 3]
    shared = ProductQuantization(levels=2, codebook=3, separate=False).assign(NAMES[:6], vectors, 0, "")
    assert len(set(shared.row_node.tolist())) == 3


@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_fewer_documents_than_codes_are_rebuilt(count, rotation):
    vectors = correlated(count, 5)
    quantiser = fit_quantiser(ProductQuantization(levels=3, codebook=64, rotation=rotation), vectors)
    np.testing.assert_allclose(quantiser.reconstruct(quantiser.codes(vectors)), vectors, atol=1e-4)


@pytest.mark.parametrize("rotation", [True, False])
def test_equal_documents(rotation):
    table = ProductQuantization(levels=2, codebook=4, rotation=rotation).assign(NAMES[:9], np.full((9, 3), 0.1), 0, "")
    assert len({tuple(codes) for codes in table.padded()[:, :2].tolist()}) == 1
    assert table.padded()[:, 2].tolist() == [*range(9)]


def test_the_seed_decides():
    strategy, vectors = ProductQuantization(levels=4, codebook=8), correlated(400, 10)
    tables = [strategy.assign(NAMES, vectors, seed, "") for seed in (0, 0, 1)]
    assert tables[0].fingerprint == tables[1].fingerprint != tables[2].fingerprint
    recorded = dict(tables[0].strategy)
    assert len(recorded.pop("quantiser")) == 16
    assert recorded == {
        "name": "product", "levels": 4, "codebook": 8, "rotation": True, "separate": True, "seed": 0
    }  # fmt: skip


def test_codewords_improve_on_the_codebooks():
    """Least squares may use the whole space for every code."""
    vectors = correlated(400, 10)
    quantiser = fit_quantiser(ProductQuantization(levels=4, codebook=8), vectors)
    tokens = quantiser.codes(vectors) + 8 * np.arange(4) + 1
    rebuilt = codewords(tokens, vectors, 33)[tokens].sum(1)
    left = np.square(vectors - rebuilt).sum() / np.square(vectors - vectors.mean(0)).sum()
    assert 0.5 * quantiser.relative_errors(vectors)[-1] < left < quantiser.relative_errors(vectors)[-1]


@pytest.mark.parametrize("rotation", [True, False])
def test_errors_are_those_of_faiss(rotation):
    faiss = pytest.importorskip("faiss")
    vectors = correlated(2000, 16)
    quantiser = faiss.IndexPQ(16, 4, 4)
    transform = faiss.OPQMatrix(16, 4)
    transform.pq = quantiser.pq  # by default it rotates for 256 centroids
    reference = faiss.IndexPreTransform(transform, quantiser) if rotation else quantiser
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        reference.train(vectors)
        reference.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    rebuilt = reference.reconstruct_n(0, len(vectors))
    theirs = np.square(vectors - rebuilt).sum() / np.square(vectors - vectors.mean(0)).sum()
    ours = error(ProductQuantization(levels=4, codebook=16, rotation=rotation), vectors)
    assert ours < 1.03 * theirs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProductQuantization(levels=0), "ProductQuantization.levels is 0"),
        (lambda: ProductQuantization(codebook=1), "ProductQuantization.codebook is 1"),
        (
            lambda: fit_quantiser(ProductQuantization(levels=4), np.zeros((9, 3))),
            "vectors of 3 numbers for 4 levels.*ProductQuantization.levels to at most 3",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(InputError, match=message):
        make()
