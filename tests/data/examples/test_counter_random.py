"""Random numbers that depend on nothing but what they are for."""

import numpy as np

from genret_jax.data.examples.counter_random import RowRandom, splitmix64


def test_splitmix64_gives_the_published_sequence() -> None:
    # The generator's first outputs from seed 1234567, as in Rosetta Code's "Pseudo-random numbers/Splitmix64".
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in range(5)], np.uint64)
    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_numbers_do_not_depend_on_the_other_rows_or_on_the_count() -> None:
    whole = RowRandom(7, 3, np.arange(10))
    part = RowRandom(7, 3, np.array([8, 2]))
    np.testing.assert_array_equal(part.uniform(1), whole.uniform(1)[[8, 2]])
    np.testing.assert_array_equal(part.uniforms(1, 4), whole.uniforms(1, 6)[[8, 2], :4])
    np.testing.assert_array_equal(whole.select(np.array([8, 2])).uniform(1), part.uniform(1))


def test_every_part_of_the_key_matters() -> None:
    def numbers(seed: int, step: int, row: int, stream: int) -> list[float]:
        return RowRandom(seed, step, np.array([row])).uniforms(stream, 3).ravel().tolist()

    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (-1, 0, 0, 0), (2**70, 9, 0, 0)]
    drawn = [numbers(*key) for key in keys]
    assert len({value for row in drawn for value in row}) == 3 * len(keys)
    assert numbers(0, 0, 0, 0) == drawn[0]


def test_uniform_and_uncorrelated() -> None:
    numbers = np.concatenate([RowRandom(0, step, np.arange(100)).uniforms(5, 50) for step in range(40)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    expected = numbers.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi square, 19 degrees of freedom, p = 0.001
    correlation = np.corrcoef(numbers.T)
    assert np.abs(correlation - np.eye(50)).max() < 0.08  # 4,000 rows: 5 standard deviations


def test_below_keeps_to_its_limits() -> None:
    limits = np.arange(2000) % 4
    drawn = RowRandom(0, 0, np.arange(2000)).below(1, limits)
    assert (drawn[limits == 0] == 0).all()
    assert all(set(drawn[limits == limit].tolist()) == set(range(limit)) for limit in (1, 2, 3))
