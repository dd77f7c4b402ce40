"""Fitted quantisers: codes of vectors that come later, and folders that bring them back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quantisers import fit_quantiser

from genret_jax.docids import (
    LshDocids,
    ProductQuantization,
    RandomDocids,
    ResidualKMeans,
    append_documents,
    load_quantiser,
)
from genret_jax.docids.separating import next_free, separated
from genret_jax.docids.strategies.autoencoder import Mlp, RqVaeQuantiser
from genret_jax.docids.strategies.residual import ResidualQuantiser
from genret_jax.errors import InputError
from genret_jax.storage import save_arrays

COUNT, WIDTH = 200, 6
pytestmark = pytest.mark.usefixtures("one_device")

NAMES = [f"d{number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    centres = 4 * random.standard_normal((12, WIDTH))
    return (centres[random.integers(0, 12, COUNT)] + random.standard_normal((COUNT, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def residual(vectors):
    return ResidualKMeans(levels=2, codebook=4).fit_and_assign(NAMES, vectors, 3, "")


def random_rq_vae():
    networks = [
        Mlp(widths).init(jax.random.key(1), jnp.zeros((1, width)))["params"]
        for widths, width in (((5, 3), WIDTH), ((5, WIDTH), 3))
    ]
    codebooks = np.random.default_rng(1).standard_normal((2, 4, 3), np.float32)
    parameters = {"encoder": networks[0], "decoder": networks[1], "codebooks": codebooks}
    return RqVaeQuantiser.from_parameters(parameters, np.full(WIDTH, 0.5, np.float32), np.full(WIDTH, 2.0, np.float32))


def test_codes_are_those_that_the_documents_got(residual, vectors):
    quantiser, table = residual
    np.testing.assert_array_equal(quantiser.codes(vectors), table.padded()[:, :2])
    assert quantiser.level_sizes == table.level_sizes[:2] == (4, 4)
    again = ResidualKMeans(levels=2, codebook=4).assign(NAMES, vectors, 3, "")
    np.testing.assert_array_equal(again.padded(), table.padded())
    assert table.strategy["quantiser"] == quantiser.fingerprint


def test_codes_stand_for_sums_of_centroids():
    codebooks = np.array([[[0.0, 0], [10, 0]], [[0, -1], [0, 2]]], np.float32)
    quantiser = ResidualQuantiser(level_sizes=(2, 2), arrays={"codebooks": codebooks})
    vectors = np.array([[9.0, 2], [1, -1], [10, -1]], np.float32)
    codes = quantiser.codes(vectors)
    assert codes.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert quantiser.reconstruct(codes).tolist() == [[10, 2], [0, -1], [10, -1]]
    assert quantiser.reconstruct(codes[:, :1]).tolist() == [[10, 0], [0, 0], [10, 0]]
    variance = np.square(vectors - vectors.mean(0)).sum()
    np.testing.assert_allclose(quantiser.relative_errors(vectors), [8 / variance, 2 / variance], rtol=1e-5)


def test_any_number_of_new_vectors_has_codes(residual, vectors):
    quantiser, table = residual
    for count in (0, 1, 3, 65):
        assert quantiser.codes(vectors[:count]).tolist() == table.padded()[:count, :2].tolist()


@pytest.mark.parametrize("kind", ["residual", "product", "lsh", "rq-vae"])
def test_a_saved_quantiser_gives_the_same_codes(kind, residual, vectors, tmp_path):
    make = {
        "residual": lambda: residual[0],
        "product": lambda: fit_quantiser(ProductQuantization(levels=4, codebook=4), vectors),
        "lsh": lambda: fit_quantiser(LshDocids(levels=2, hyperplanes=3), vectors),
        "rq-vae": random_rq_vae,
    }
    quantiser = make[kind]()
    quantiser.save(tmp_path / "quantiser")
    loaded = load_quantiser(tmp_path / "quantiser")
    assert type(loaded) is type(quantiser)
    assert (loaded.level_sizes, loaded.fingerprint) == (quantiser.level_sizes, quantiser.fingerprint)
    codes = quantiser.codes(vectors)
    np.testing.assert_array_equal(loaded.codes(vectors), codes)
    assert len(np.unique(codes, axis=0)) > 4
    if kind != "lsh":
        np.testing.assert_array_equal(loaded.reconstruct(codes), quantiser.reconstruct(codes))
    with pytest.raises(InputError, match="already exists"):
        quantiser.save(tmp_path / "quantiser")


def test_what_is_no_quantiser_is_refused(residual, tmp_path):
    with pytest.raises(InputError, match="no quantiser here"):
        load_quantiser(tmp_path)
    residual[1].save(tmp_path / "docids")
    with pytest.raises(InputError, match="a docid_table of version 1"):
        load_quantiser(tmp_path / "docids")
    save_arrays(tmp_path / "other", {}, kind="quantiser", version=1, details={"name": "pq", "level_sizes": []})
    with pytest.raises(InputError, match=r"a quantiser 'pq'.*one of (learned, )?lsh, product, residual, rq-vae"):
        load_quantiser(tmp_path / "other")
    details = {"name": "lsh", "level_sizes": [256, 10**9]}
    save_arrays(tmp_path / "large", {}, kind="quantiser", version=1, details=details)
    with pytest.raises(InputError, match=r"large: level sizes \[256, 1000000000\]; expected integers up to 16,777,216"):
        load_quantiser(tmp_path / "large")


def test_vectors_of_another_width_or_not_finite_are_refused(residual, vectors):
    with pytest.raises(InputError, match=r"float32\[200, 5\].*\[documents, 6\]"):
        residual[0].codes(vectors[:, :5])
    with pytest.raises(InputError, match="row 1 is not finite"):
        residual[0].codes(np.full((2, WIDTH), [[0.0], [np.nan]]))


def test_last_codes_by_hand():
    assert separated(np.array([[3, 1], [3, 2], [3, 1], [3, 1]])).tolist() == [
        [3, 1, 0],
        [3, 2, 0],
        [3, 1, 1],
        [3, 1, 2],
    ]
    taken = np.array([[3, 1, 4], [5, 5, 0], [3, 1, 2]])
    assert next_free(taken, np.array([[3, 1], [5, 6], [5, 5], [3, 1]])).tolist() == [5, 0, 1, 6]


def test_new_documents_get_the_next_free_code_of_their_prefix(residual, vectors):
    quantiser, table = residual
    grown = append_documents(table, quantiser, ["x", "y", "z"], vectors[[7, 9, 7]], corpus_fingerprint="grown")
    old, new = table.padded(), grown.padded()[COUNT:]
    np.testing.assert_array_equal(grown.padded()[:COUNT], old)
    np.testing.assert_array_equal(new[:, :2], old[[7, 9, 7], :2])
    for at, row in ((7, 0), (9, 1)):
        assert new[row, 2] == old[(old[:, :2] == old[at, :2]).all(1), 2].max() + 1
    assert new[2, 2] == new[0, 2] + 1
    assert (list(grown.doc_ids)[COUNT:], grown.corpus_fingerprint) == (["x", "y", "z"], "grown")


def test_new_documents_near_old_ones_share_their_codes(residual, vectors):
    noise = 1e-3 * np.random.default_rng(5).standard_normal(vectors.shape).astype(np.float32)
    same = residual[0].codes(vectors + noise) == residual[1].padded()[:, :2]
    assert same[:, 0].mean() > 0.98
    assert same.all(1).mean() > 0.95


def test_without_a_separating_code_new_documents_share_docids(vectors):
    quantiser, table = ResidualKMeans(levels=2, codebook=4, separate=False).fit_and_assign(NAMES, vectors, 3, "")
    grown = append_documents(table, quantiser, ["x"], vectors[:1])
    assert grown.docid(COUNT) == table.docid(0)


def test_documents_are_not_appended_to_the_docids_of_another_quantiser(residual, vectors):
    quantiser, table = residual
    other = dataclasses.replace(quantiser, arrays={"codebooks": quantiser.arrays["codebooks"] + 1})
    with pytest.raises(InputError, match=f"by {quantiser.fingerprint}; expected docids of the quantiser"):
        append_documents(table, other, ["x"], vectors[:1])
    unknown = dataclasses.replace(table, strategy={}, level_sizes=(4, 5, 99))
    with pytest.raises(InputError, match="an unknown strategy"):
        append_documents(unknown, quantiser, ["x"], vectors[:1])
    arbitrary = RandomDocids(levels=2, codebook=4).assign(NAMES, None, 3, "")
    with pytest.raises(InputError, match="by random; expected docids of the quantiser"):
        append_documents(arbitrary, quantiser, ["x"], vectors[:1])
    with pytest.raises(InputError, match="2 vectors for 1 documents"):
        append_documents(table, quantiser, ["x"], vectors[:2])
    with pytest.raises(InputError, match="'d4' occurs twice"):
        append_documents(table, quantiser, ["d4"], vectors[:1])


def test_documents_that_the_quantiser_is_not_fitted_to_get_docids_as_if_they_came_later(vectors):
    strategy, unseen = ResidualKMeans(levels=2, codebook=4), np.zeros(COUNT, bool)
    unseen[[0, 5, 50]] = True
    quantiser, table = strategy.fit_and_assign(NAMES, vectors, 3, "", unseen=unseen)
    alone, seen = strategy.fit_and_assign(
        [name for name, new in zip(NAMES, unseen, strict=True) if not new], vectors[~unseen], 3, ""
    )
    assert quantiser.fingerprint == alone.fingerprint
    later = append_documents(seen, alone, [NAMES[row] for row in (0, 5, 50)], vectors[unseen])
    expected = {later.doc_ids[row]: later.docid(row) for row in range(COUNT)}
    assert {table.doc_ids[row]: table.docid(row) for row in range(COUNT)} == expected
    assert list(table.doc_ids) == NAMES
