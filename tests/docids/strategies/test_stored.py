"""Docids from a file of codes."""

import numpy as np
import pytest

from genret_jax.docids import NpyDocids
from genret_jax.errors import InputError

NAMES = ["a", "b", "c"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "codes.npy"


def test_codes_come_as_they_are(file):
    codes = np.array([[2, 0], [2, 1], [0, 0]], np.int16)
    np.save(file, codes)
    table = NpyDocids(path=str(file)).assign(NAMES, None, 0, "f")
    np.testing.assert_array_equal(table.padded(), codes)
    assert (table.level_sizes, table.strategy["name"], table.corpus_fingerprint) == ((3, 2), "npy", "f")


def test_equal_codes_are_warned_of_or_told_apart(file):
    np.save(file, np.array([[1, 1], [0, 1], [1, 1]]))
    with pytest.warns(UserWarning, match="3 documents have 2 distinct docids"):
        assert NpyDocids(path=str(file)).assign(NAMES, None, 0, "").padded().tolist() == [[1, 1], [0, 1], [1, 1]]
    table = NpyDocids(path=str(file), separate=True).assign(NAMES, None, 0, "")
    assert table.padded().tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.zeros((2, 2), int), r"2 rows of codes; expected 3, one for each document"),
        (np.zeros((3, 2)), r"float64\[3, 2\]; expected integers of shape"),
        (np.zeros(3, int), r"int64\[3\]; expected integers of shape"),
        (np.zeros((3, 0), int), r"int64\[3, 0\]; expected integers of shape"),
        (np.array([[0], [1], [-1]]), "code -1 at level 0 of row 2"),
        (np.array([[0], [2**31], [1]]), "code 2147483648 at level 0 of row 1"),
        (np.array([[0, 5], [1, 10**9], [1, 6]]), "code 1000000000 at level 1 of row 1; expected codes from 0 to 65535"),
        (np.array([[0], [1], [2**64 - 1]], np.uint64), "code 18446744073709551615 at level 0 of row 2"),
    ],
)
def test_what_is_no_code_is_refused(file, stored, message):
    np.save(file, stored)
    with pytest.raises(InputError, match=message):
        NpyDocids(path=str(file)).assign(NAMES, None, 0, "")


def test_no_file(file):
    with pytest.raises(InputError, match=r"codes.npy: the file is missing"):
        NpyDocids(path=str(file)).codes()
    file.write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"not a readable .npy file"):
        NpyDocids(path=str(file)).codes()
