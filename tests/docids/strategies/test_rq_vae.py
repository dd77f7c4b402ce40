"""The RQ-VAE: what it learns, where its codebooks start, and how unused codes come back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quantisers import fit_quantiser

from genret_jax.docids import ResidualKMeans, RqVae
from genret_jax.docids.strategies import rq_vae as training
from genret_jax.docids.strategies.autoencoder import apply_mlp
from genret_jax.docids.streaming import quantise
from genret_jax.errors import InputError

COUNT, WIDTH = 256, 8
pytestmark = pytest.mark.usefixtures("one_device")

NAMES = [f"d{number}" for number in range(COUNT)]
TINY = RqVae(levels=2, codebook=8, hidden=(16,), width=4, epochs=100, batch_size=64, learning_rate=1e-2, revive_after=1)


@pytest.fixture(scope="module")
def vectors():
    """Clusters on a curved surface, in dimensions of very different sizes."""
    random = np.random.default_rng(0)
    flat = random.standard_normal((12, 3))[random.integers(0, 12, COUNT)] + 0.2 * random.standard_normal((COUNT, 3))
    curved = np.tanh(flat @ random.standard_normal((3, WIDTH)))
    return (curved * np.geomspace(0.01, 1, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(vectors):
    return TINY.fit_and_assign(NAMES, vectors, 0, "corpus")


def test_every_level_leaves_less_and_less_than_clusters_alone(vectors):
    standardised = (vectors - vectors.mean(0)) / vectors.std(0)
    errors = fit_quantiser(TINY, standardised).relative_errors(standardised)
    assert errors == sorted(errors, reverse=True)
    of_clusters = fit_quantiser(ResidualKMeans(levels=1, codebook=8), standardised).relative_errors(standardised)
    assert errors[-1] < 0.7 * of_clusters[0]


def test_every_document_has_a_docid_of_its_own(fitted, vectors):
    quantiser, table = fitted
    codes = table.padded()
    np.testing.assert_array_equal(codes[:, :2], quantiser.codes(vectors))
    assert len(np.unique(codes, axis=0)) == COUNT
    assert table.level_sizes[:2] == quantiser.level_sizes == (8, 8)
    assert table.strategy["hidden"] == [16]


def test_the_seed_decides(fitted, vectors):
    np.testing.assert_array_equal(TINY.assign(NAMES, vectors, 0, "").padded(), fitted[1].padded())
    assert (TINY.assign(NAMES, vectors, 1, "").padded()[:, :2] != fitted[1].padded()[:, :2]).any()


def test_new_items_near_old_ones_share_their_codes(fitted, vectors):
    noise = 1e-3 * np.random.default_rng(5).standard_normal(vectors.shape) * vectors.std(0)
    same = fitted[0].codes(vectors + noise) == fitted[0].codes(vectors)
    assert same[:, 0].mean() > 0.98
    assert same.all(1).mean() > 0.95


def test_codebooks_start_where_the_encoder_puts_vectors(vectors):
    standardised = (vectors - vectors.mean(0)) / vectors.std(0)
    parameters = training._start(TINY, standardised, 0).parameters
    latent = apply_mlp(parameters["encoder"], jnp.asarray(standardised))
    codes, left = quantise(latent, parameters["codebooks"])
    assert [len(np.unique(column)) for column in np.asarray(codes).T] == [8, 8]
    assert left.mean() < 0.3 * jnp.var(latent, axis=0).sum()


@pytest.mark.parametrize("revive_after", [1, 0])
def test_codes_that_nothing_uses_come_back(revive_after, vectors):
    config = dataclasses.replace(TINY, revive_after=revive_after)
    start = training._start(config, vectors, 0)
    far = {**start.parameters, "codebooks": start.parameters["codebooks"].at[:, 2:].add(1e3)}
    progress = start._replace(parameters=far)
    for first in (0, 10):
        progress = training._epochs(config, jnp.asarray(vectors), jax.random.key(0), progress, first, first + 10)
    codes = quantise(apply_mlp(progress.parameters["encoder"], jnp.asarray(vectors)), progress.parameters["codebooks"])[
        0
    ]
    used = [len(np.unique(column)) for column in np.asarray(codes).T]
    assert min(used) >= 6 if revive_after else max(used) <= 2


def test_revived_codes_are_what_earlier_levels_leave_of_vectors(vectors):
    parameters = training._start(TINY, vectors, 0).parameters
    dead = np.zeros((2, 8), bool)
    dead[0, 3] = dead[1, 5] = True
    codebooks = parameters["codebooks"]
    moved = training._revived(jnp.asarray(vectors), jax.random.key(1), parameters, jnp.asarray(dead))
    np.testing.assert_array_equal(moved[~dead], codebooks[~dead])
    latent = apply_mlp(parameters["encoder"], jnp.asarray(vectors))
    residual = latent - codebooks[0][quantise(latent, codebooks)[0][:, 0]]
    for place, candidates in ((moved[0, 3], latent), (moved[1, 5], residual)):
        assert jnp.square(candidates - place[None]).sum(1).min() < 1e-8


def test_epochs_do_not_depend_on_how_many_are_run_at_once(vectors):
    start, key = training._start(TINY, vectors, 0), jax.random.key(0)
    whole = training._epochs(TINY, jnp.asarray(vectors), key, start, 0, 3)
    parts = training._epochs(TINY, jnp.asarray(vectors), key, start, 0, 1)
    parts = training._epochs(TINY, jnp.asarray(vectors), key, parts, 1, 3)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_standardised_dimensions_count_alike(vectors):
    standardised, mean, scale = TINY._standardised(np.column_stack([vectors, np.full(COUNT, 7, np.float32)]))
    np.testing.assert_allclose(mean[:WIDTH], vectors.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scale[:WIDTH], vectors.std(0), rtol=1e-4)
    np.testing.assert_allclose(standardised[:, :WIDTH], (vectors - vectors.mean(0)) / vectors.std(0), atol=1e-4)
    assert not standardised[:, WIDTH].any()  # a dimension that says nothing
    raw, mean, scale = dataclasses.replace(TINY, standardise=False)._standardised(vectors)
    assert (raw is vectors, mean.any(), set(scale.tolist())) == (True, False, {1.0})


def test_the_other_commitment_and_optimizer_learn_too(vectors):
    other = dataclasses.replace(TINY, commitment="cumulative", optimizer="adagrad", learning_rate=0.1)
    assert fit_quantiser(other, vectors).relative_errors(vectors)[-1] < 0.3


def test_a_collapsed_codebook_is_an_error(vectors, monkeypatch):
    def collapsed(config, vectors, seed):
        parameters = dict(training._start(config, vectors, seed).parameters)
        return {**parameters, "codebooks": parameters["codebooks"].at[1, 1:].set(1e3)}

    monkeypatch.setattr(training, "train", collapsed)
    monkeypatch.setattr("genret_jax.docids.strategies.rq_vae._MIN_USED_SHARE", 0.2)
    config = dataclasses.replace(TINY, standardise=False, optimizer="adagrad", learning_rate=0.4)
    message = r"collapsed: level 1 uses 1 of 8.*RqVae.standardise = True and optimizer = 'adamw' with learning_rate"
    with pytest.raises(InputError, match=message):
        fit_quantiser(config, vectors)
    config._require_use(np.zeros((COUNT, 2), np.int32), np.repeat(vectors[:5], 8, axis=0))  # no more to tell apart


def test_a_network_that_has_diverged_is_an_error(vectors, monkeypatch):
    """Its codes may all be used, and mean nothing: Adagrad with .4 does that to standardised embeddings."""

    def diverged(config, vectors, seed):
        parameters = dict(training._start(config, vectors, seed).parameters)
        return {**parameters, "decoder": jax.tree.map(lambda array: 50 * array, parameters["decoder"])}

    monkeypatch.setattr(training, "train", diverged)
    with pytest.raises(InputError, match=r"has diverged: its decoder is off by .*RqVae.optimizer = 'adamw'"):
        fit_quantiser(dataclasses.replace(TINY, optimizer="adagrad", learning_rate=0.4), vectors)


def test_a_loss_that_is_not_finite_is_an_error(vectors):
    with pytest.raises(InputError, match=r"loss of the RQ-VAE is (nan|inf).*a lower learning_rate"):
        fit_quantiser(dataclasses.replace(TINY, learning_rate=1e30), vectors)


def test_more_vectors_than_fit_train_on_some(vectors):
    config = dataclasses.replace(TINY, memory_gib=64 * WIDTH * 4 / 2**30, epochs=5)
    table = config.assign(NAMES, vectors.astype(np.float16), 0, "")
    assert len(np.unique(table.padded(), axis=0)) == COUNT
    assert table.strategy["memory_gib"] == config.memory_gib


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit_quantiser(RqVae(), np.zeros((255, 3))), "255 documents for codebooks of 256.*at most 63 codes"),
        (lambda: RqVae(codebook=1), "RqVae.codebook is 1"),
        (lambda: RqVae(hidden=(16, 0)), r"RqVae.hidden is \(16, 0\)"),
        (lambda: RqVae(learning_rate=0.0), "RqVae.learning_rate is 0.0"),
        (lambda: RqVae(epochs=0), "RqVae.epochs is 0"),
        (lambda: RqVae(revive_after=-1), "RqVae.revive_after is -1"),
        (lambda: RqVae().assign(NAMES, None, 0, ""), "rq-vae docids without document vectors"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.usefixtures("annotations_unchecked")
def test_gin_hands_over_lists():
    assert hash(RqVae(hidden=[8, 4])) == hash(RqVae(hidden=(8, 4)))
    with pytest.raises(InputError, match=r"RqVae.optimizer is 'adam'.*did you mean 'adamw'"):
        RqVae(optimizer="adam")
