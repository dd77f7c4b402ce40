"""The last code, which tells documents apart whose other codes are equal."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32


def separated(codes: Int[np.ndarray, "n m"]) -> Int32[np.ndarray, "n m_plus_1"]:
    """Append a code that counts the rows that are equal (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 3.1)."""
    none = np.zeros((0, codes.shape[1] + 1), np.int32)
    return np.column_stack([codes, next_free(none, codes)]).astype(np.int32)


def with_separating(
    codes: Int32[np.ndarray, "n m"], level_sizes: Sequence[int], order: Int[np.ndarray, " n"] | None = None
) -> tuple[Int32[np.ndarray, "n m_plus_1"], tuple[int, ...]]:
    """Append the code that separates, and its size to those of the levels.

    Args:
        codes: Of every document.
        level_sizes: Their codebook sizes.
        order: In which documents of equal codes are counted; that of the rows by default.
    """
    order = np.arange(len(codes)) if order is None else order
    whole = np.empty((len(codes), codes.shape[1] + 1), np.int32)
    whole[order] = separated(codes[order])
    return whole, (*level_sizes, int(whole[:, -1].max(initial=0)) + 1)


def next_free(taken: Int[np.ndarray, "r m_plus_1"], codes: Int[np.ndarray, "n m"]) -> Int32[np.ndarray, " n"]:
    """Return a last code for every row that no equal row has.

    Args:
        taken: Rows that have one.
        codes: Rows that need one.

    Returns:
        Numbers that go on after the largest of the equal rows, from 0 where there are none, in the order of the rows.
    """
    inverse = np.unique(np.concatenate([taken[:, :-1], codes]), axis=0, return_inverse=True)[1].reshape(-1)
    group = inverse[len(taken) :]
    free = np.zeros(inverse.max(initial=-1) + 1, np.int64)
    np.maximum.at(free, inverse[: len(taken)], taken[:, -1] + 1)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(free))
    position = np.empty(len(codes), np.int64)
    position[order] = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[group[order]]
    return (free[group] + position).astype(np.int32)
