"""Docids that are hashed or random: TIGER's ablations."""

from unittest import mock

import jax
import numpy as np
import pytest
from support.quantisers import fit_quantiser

from genret_jax.docids import LshDocids, RandomDocids
from genret_jax.docids.strategies.lsh import LshQuantiser
from genret_jax.errors import InputError

NAMES = [f"d{number}" for number in range(300)]


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with mock.patch.object(jax, "local_devices", return_value=jax.local_devices()[:1]):
        yield


def test_sides_by_hand():
    hyperplanes = np.array([[[1.0, 0], [0, 1]], [[1, 1], [-1, 0]]], np.float32)
    quantiser = LshQuantiser(
        level_sizes=(4, 4), arrays={"hyperplanes": hyperplanes, "middle": np.array([1.0, 0], np.float32)}
    )
    # Seen from (1, 0): (1, 1), (-2, 1) and (0, -1).
    codes = quantiser.codes(np.array([[2.0, 1], [-1, 1], [1, -1]]))
    assert codes.tolist() == [[3, 1], [2, 2], [0, 0]]


def test_vectors_in_a_cone_are_told_apart_through_their_mean():
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    vectors[:, 0] += 20
    used = [
        len(np.unique(fit_quantiser(LshDocids(levels=1, hyperplanes=4, centred=centred), vectors).codes(vectors)))
        for centred in (True, False)
    ]
    assert used[0] >= 14
    assert used[1] <= 4


def test_near_vectors_have_more_codes_in_common():
    random = np.random.default_rng(1)
    vectors = random.standard_normal((300, 8)).astype(np.float32)
    quantiser = fit_quantiser(LshDocids(levels=3, hyperplanes=3), vectors)
    same = [
        np.mean(quantiser.codes(vectors) == quantiser.codes(vectors + size * random.standard_normal((300, 8))))
        for size in (0.01, 0.3, 10.0)
    ]
    assert same[0] > 0.95 > same[1] > same[2] + 0.2


@pytest.mark.parametrize("separate", [True, False])
def test_tables(separate):
    vectors = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    lsh, random = (
        LshDocids(levels=2, hyperplanes=2, separate=separate),
        RandomDocids(levels=2, codebook=4, separate=separate),
    )
    for strategy, of in ((lsh, vectors), (random, None)):
        table, again, other = (strategy.assign(NAMES, of, seed, "") for seed in (1, 1, 2))
        codes = table.padded()
        np.testing.assert_array_equal(again.padded(), codes)
        assert (other.padded()[:, :2] != codes[:, :2]).any()
        assert table.level_sizes[:2] == (4, 4)
        assert len(np.unique(codes, axis=0)) == (300 if separate else 16)
        assert codes.shape[1] == 2 + separate
        assert table.strategy["name"] == {lsh: "lsh", random: "random"}[strategy]


def test_vectors_beyond_the_memory_are_hashed_alike():
    vectors = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float16)
    whole, streamed = (LshDocids(memory_gib=memory).assign(NAMES, vectors, 0, "") for memory in (4.0, 1e-6))
    np.testing.assert_array_equal(whole.padded(), streamed.padded())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LshDocids(levels=0), "LshDocids.levels is 0"),
        (lambda: LshDocids(hyperplanes=25), "LshDocids.hyperplanes is 25"),
        (lambda: RandomDocids(levels=0), "RandomDocids.levels is 0"),
        (lambda: RandomDocids(codebook=1), "RandomDocids.codebook is 1"),
        (lambda: LshDocids().assign(NAMES, None, 0, ""), "lsh docids without document vectors"),
        (lambda: fit_quantiser(LshDocids(), np.zeros((0, 3))), "no documents"),
        (lambda: fit_quantiser(LshDocids(), np.full((1, 3), np.inf)), "row 0, of document .d0., is not finite"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(InputError, match=message):
        make()
