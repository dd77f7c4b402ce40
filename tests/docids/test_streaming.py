"""Docids of vectors that are said not to fit in memory: read piece by piece, sampled, spread over devices."""

from unittest import mock

import jax
import numpy as np
import pytest

from genret_jax.docids import HierarchicalKMeans, ProductQuantization, ResidualKMeans, streaming
from genret_jax.docids.strategies import hierarchical
from genret_jax.errors import InputError

COUNT, WIDTH, CENTRES = 3000, 8, 150
MEMORY = 7.2e-5  # GiB: 2,416 vectors of 8 numbers, so 302 in a share
SAMPLED = 50  # vectors for each centroid, so that every sample is smaller than a share and one program serves all


class File(np.ndarray):
    """Vectors that count how many of them are read at a time, and refuse to be read as a whole."""

    most = 0

    def __getitem__(self, rows):
        found = np.asarray(self)[rows]
        File.most = max(File.most, len(found))
        return found


@pytest.fixture(autouse=True)
def two_devices():
    """Not eight, as every device compiles for itself."""
    devices = jax.local_devices()[:2]
    with mock.patch.object(jax, "local_devices", return_value=devices):
        yield


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, WIDTH)) * 4
    File.most = 0
    return (centres[generator.integers(0, CENTRES, COUNT)] + generator.standard_normal((COUNT, WIDTH))).astype(
        np.float16
    )


def assign(strategy, vectors):
    names = [f"d{number}" for number in range(len(vectors))]
    return strategy.assign(names, vectors, seed=3, corpus_fingerprint="")


def scatter(vectors, keys):
    """Mean squared distance of vectors to the mean of those with the same key."""
    group = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    vectors = vectors.astype(np.float64)
    means = np.zeros((group.max() + 1, vectors.shape[1]))
    np.add.at(means, group, vectors)
    return np.mean(np.sum((vectors - (means / np.bincount(group)[:, None])[group]) ** 2, axis=1))


def test_clusters_are_as_tight_as_those_found_in_memory(vectors):
    whole = assign(HierarchicalKMeans(branching=5, leaf_size=20), vectors).padded()
    with mock.patch.object(streaming, "SAMPLES_PER_CENTROID", SAMPLED):
        streamed = assign(HierarchicalKMeans(branching=5, leaf_size=20, memory_gib=MEMORY), vectors.view(File)).padded()
    for depth in (1, 2, 3):  # samples of 50 cost a few per cent; scripts/benchmark_streaming.py has those of 1,024
        assert scatter(vectors, streamed[:, :depth]) < 1.12 * scatter(vectors, whole[:, :depth])
    assert len(np.unique(streamed, axis=0)) == COUNT
    # A last cluster has at most 20 documents, at positions 0, 1, 2, ...
    last = (streamed >= 0).sum(1) - 1
    position = streamed[np.arange(COUNT), last]
    inside = streamed.copy()
    inside[np.arange(COUNT), last] = -1
    _, group, sizes = np.unique(inside, axis=0, return_inverse=True, return_counts=True)
    assert sizes.max() <= 20
    assert (np.bincount(group.reshape(-1), weights=position) == sizes * (sizes - 1) / 2).all()


def test_never_reads_more_than_fits(vectors):
    with (
        mock.patch.object(streaming, "_PIECE_BYTES", 4 * WIDTH * 302),
        mock.patch.object(streaming, "SAMPLES_PER_CENTROID", SAMPLED),
    ):
        assign(HierarchicalKMeans(branching=5, leaf_size=20, memory_gib=MEMORY), vectors.view(File))
        assert 0 < File.most <= 302  # a share, or a piece; a sample has 250
        assign(ResidualKMeans(levels=2, codebook=5, memory_gib=MEMORY), vectors.view(File))
        assign(ProductQuantization(levels=3, codebook=5, memory_gib=MEMORY), vectors.view(File))
        assert File.most <= 302


def test_codebooks_of_a_sample_leave_as_little_over(vectors):
    def left(table):
        return scatter(vectors, table.padded()[:, :2])

    options = {"levels": 2, "codebook": 16, "separate": True}
    with mock.patch.object(streaming, "SAMPLES_PER_CENTROID", 150):  # of 16 codes: most of the vectors
        streamed = assign(ResidualKMeans(**options, memory_gib=MEMORY), vectors.view(File))
    assert left(streamed) < 1.1 * left(assign(ResidualKMeans(**options), vectors))
    assert len(np.unique(streamed.padded(), axis=0)) == COUNT


@pytest.mark.parametrize(
    "strategy",
    [
        HierarchicalKMeans(branching=5, memory_gib=MEMORY),
        ResidualKMeans(codebook=16, memory_gib=MEMORY),
        ProductQuantization(levels=3, codebook=16, memory_gib=MEMORY),
    ],
)
def test_docids_do_not_depend_on_the_number_of_devices(strategy, vectors):
    devices = jax.local_devices()
    with mock.patch.object(streaming, "SAMPLES_PER_CENTROID", SAMPLED):
        spread = assign(strategy, vectors)
        with mock.patch.object(jax, "local_devices", return_value=devices[:1]):
            alone = assign(strategy, vectors)
    np.testing.assert_array_equal(spread.padded(), alone.padded())


def test_assigns_to_the_nearest_centroids_of_what_is_left():
    generator = np.random.default_rng(1)
    vectors, codebooks = (
        generator.standard_normal((37, 4), np.float32),
        generator.standard_normal((2, 6, 4), np.float32),
    )
    rows = np.array([0, 5, 6, 20, 36])
    with mock.patch.object(streaming, "_PIECE_BYTES", 4 * 4 * 2):
        codes, distances = streaming.in_pieces(streaming.quantise, vectors, rows, codebooks, "")
    for row, found, distance in zip(rows, codes, distances, strict=True):
        left = vectors[row]
        for code, codebook in zip(found, codebooks, strict=True):
            assert code == np.argmin(((left - codebook) ** 2).sum(1))
            left = left - codebook[code]
        np.testing.assert_allclose(distance, (left**2).sum(), rtol=1e-5)


def test_equal_vectors_are_cut_into_equal_parts():
    table = assign(HierarchicalKMeans(branching=4, leaf_size=10, memory_gib=1e-6), np.ones((160, 3), np.float32))
    assert len(np.unique(table.padded(), axis=0)) == 160
    assert np.bincount(table.padded()[:, 0]).tolist() == [40] * 4


def test_ever_farther_outliers_end_too():
    """K-means divides off one of them at a time; a pass over the file for each would never end."""
    vectors = 4.0 ** np.arange(24)[:, None] * np.ones((1, 2))
    with (
        mock.patch.object(hierarchical, "_DEEPEST_CLUSTERING", 4),  # every depth is compiled for its number of vectors
        mock.patch.object(hierarchical, "in_pieces", wraps=streaming.in_pieces) as passes,
    ):
        table = assign(HierarchicalKMeans(branching=2, leaf_size=2, memory_gib=1e-9), vectors.astype(np.float32))
    assert len(np.unique(table.padded(), axis=0)) == 24
    assert 4 <= passes.call_count < 12


@pytest.mark.parametrize(
    "strategy",
    [HierarchicalKMeans(memory_gib=MEMORY), ResidualKMeans(memory_gib=MEMORY), ProductQuantization(memory_gib=MEMORY)],
)
def test_a_vector_that_is_not_finite_is_found_where_it_is_read(strategy, vectors):
    vectors[2321, 2] = np.nan
    with pytest.raises(InputError, match=r"row 2321 is not finite"):
        assign(strategy, vectors)
