"""Reads from large and small arrays, few and many, against numpy."""

import jax
import numpy as np
import pytest

from genret_jax.decoding import reading
from genret_jax.decoding.reading import at_each, entry, window


@pytest.mark.parametrize("size", [1000, 300_000])
@pytest.mark.parametrize("shape", [(1, 1), (2, 10), (2, 300)])
@pytest.mark.parametrize("width", [1, 32, 300])
def test_reads_what_is_there(size, shape, width):
    random = np.random.default_rng(0)
    numbers, table = random.integers(0, 256, size, np.uint8), random.integers(0, 9, (size // 4, 3))
    starts, rows = random.integers(0, size - width, shape), random.integers(0, len(table), shape)

    @jax.jit
    def read(arrays, starts, rows):
        return at_each(lambda arrays, a, b: (window(arrays[0], a, width), entry(arrays[1], b)), arrays, starts, rows)

    neighbours, entries = read((numbers, table), starts, rows)
    np.testing.assert_array_equal(neighbours, numbers[starts[..., None] + np.arange(width)])
    np.testing.assert_array_equal(entries, table[rows])


def test_few_reads_from_a_large_array_are_a_loop():
    # Which XLA makes one kernel of; what is read in one go it divides among threads.
    def compiled(count, width):
        read = jax.jit(lambda array, starts: at_each(lambda array, start: window(array, start, width), array, starts))
        array, starts = (
            jax.ShapeDtypeStruct(shape, kind) for shape, kind in (((300_000,), np.uint8), ((count,), np.int32))
        )
        return read.lower(array, starts).compile().as_text()

    assert "while(" in compiled(10, 32)
    assert "while(" not in compiled(10, reading._SMALL_READ + 1)
    assert "while(" not in compiled(reading._FEW_READS + 1, 32)
