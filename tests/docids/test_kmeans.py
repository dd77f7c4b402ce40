import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans as SklearnKMeans

from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.strategies.residual import residual_kmeans
from genret_jax.errors import InputError


def blobs(count, width, centers, spread, seed=0):
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centers, width))
    return (middle[random.integers(0, centers, count)] + spread * random.standard_normal((count, width))).astype(
        np.float32
    )


def inertia_of(vectors, labels):
    return sum(((vectors[labels == c] - vectors[labels == c].mean(0)) ** 2).sum() for c in set(labels.tolist()))


def test_four_points_in_two_clusters_by_hand():
    found = KMeans(clusters=2).fit(np.array([[0.0], [1], [10], [12]], np.float32), 0)
    assert found.labels[0] == found.labels[1] != found.labels[2] == found.labels[3]
    assert found.distances.tolist() == [0.25, 0.25, 1, 1]
    assert sorted(found.centroids[0].ravel().tolist()) == [0.5, 11]


@pytest.mark.parametrize(("width", "centers", "spread", "clusters"), [(32, 40, 0.3, 10), (8, 200, 0.5, 30)])
def test_inertia_is_that_of_scikit_learn(width, centers, spread, clusters):
    vectors = blobs(3000, width, centers, spread)
    ours = np.median([KMeans(clusters=clusters).fit(vectors, seed).distances.sum() for seed in range(3)])
    reference = [SklearnKMeans(clusters, n_init=1, random_state=seed).fit(vectors).inertia_ for seed in range(3)]
    assert ours <= 1.02 * np.median(reference)


def test_labels_distances_and_centroids_agree():
    vectors = blobs(500, 5, 20, 0.3)
    found = KMeans(clusters=7).fit(vectors, 1)
    exact = ((vectors[:, None] - found.centroids[0][None]) ** 2).sum(-1)
    np.testing.assert_array_equal(found.labels, exact.argmin(1))
    np.testing.assert_allclose(found.distances, exact.min(1), rtol=1e-3, atol=1e-5)
    assert found.distances.sum() == pytest.approx(inertia_of(vectors, found.labels), rel=1e-3)


def test_groups_are_clustered_by_themselves():
    random = np.random.default_rng(3)
    sizes = [1, 300, 17, 64, 5, 129]
    group = random.permutation(np.repeat(np.arange(6), sizes))
    vectors = blobs(len(group), 6, 30, 0.2) + 50 * group[:, None].astype(np.float32)
    on_device, members = jnp.asarray(vectors), np.arange(len(group))
    starts = [KMeans(clusters=4).fit_groups(on_device, members, group, seed) for seed in range(10)]
    assert starts[0].centroids.shape == (6, 4, 6)
    for index in range(6):
        mine = vectors[group == index]
        for found in starts:
            exact = ((mine[:, None] - found.centroids[index][None]) ** 2).sum(-1)
            assert (exact[np.arange(len(mine)), found.labels[group == index]] <= exact.min(1) + 1e-2).all()
        least = min(found.distances[group == index].sum() for found in starts)
        if len(mine) > 4:
            assert least <= 1.05 * SklearnKMeans(4, n_init=10, random_state=0).fit(mine).inertia_
        else:
            assert least == pytest.approx(0, abs=1e-6)


def test_a_cluster_that_would_run_empty_takes_a_far_vector():
    # Three places for three clusters: any start with two centroids in one place must mend itself.
    vectors = np.repeat(np.array([[0.0, 0], [1, 0], [0, 1]], np.float32), [50, 2, 2], axis=0)
    for seed in range(10):
        found = KMeans(clusters=3).fit(vectors, seed)
        assert len(set(found.labels.tolist())) == 3
        assert found.distances.sum() == pytest.approx(0, abs=1e-6)


def test_fewer_distinct_vectors_than_clusters():
    vectors = np.repeat(np.array([[0.0], [1]], np.float32), 3, axis=0)
    found = KMeans(clusters=5).fit(vectors, 0)
    assert len(set(found.labels.tolist())) == 2
    assert found.distances.sum() == 0


def test_far_from_the_origin_digits_are_kept():
    vectors = blobs(200, 4, 4, 0.01) + np.float32(1000)
    found = KMeans(clusters=4).fit(vectors, 0)
    assert found.distances.sum() == pytest.approx(inertia_of(vectors.astype(np.float64), found.labels), rel=1e-2)


def test_the_seed_decides():
    vectors = blobs(300, 4, 30, 0.5)
    results = [KMeans(clusters=9).fit(vectors, seed) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    assert not np.array_equal(results[0].labels, results[2].labels)


@pytest.mark.parametrize(("far_off", "better"), [(0, "split"), (8, "plain")])
def test_residuals_are_split_where_that_leaves_less_over(far_off, better):
    """Sixteen groups in much noise, where k-means++ takes single vectors for groups; or a few vectors far off."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((1000, 256)) * np.exp(0.3 * random.standard_normal((1000, 1)))
    vectors += 8 * np.eye(256)[random.integers(0, 16, 1000)]
    vectors[:far_off] *= 10
    vectors = vectors.astype(np.float32)
    for seed in range(3):
        of_level = int(np.random.SeedSequence(seed).generate_state(1)[0])
        found = {"plain": KMeans(clusters=16), "split": KMeans(clusters=16, splitting=25)}
        found = {name: kmeans.fit(vectors, of_level) for name, kmeans in found.items()}
        left = {name: clustering.distances.sum() for name, clustering in found.items()}
        assert (np.bincount(found["plain"].labels) == 1).any()
        assert min(left, key=left.get) == better
        codes, codebooks = residual_kmeans(vectors, 1, 16, seed)
        np.testing.assert_array_equal(codes[:, 0], found[better].labels)
        np.testing.assert_array_equal(codebooks, found[better].centroids)


def test_one_cluster_is_refused():
    with pytest.raises(InputError, match=r"KMeans\.clusters is 1; expected at least 2"):
        KMeans(clusters=1)
