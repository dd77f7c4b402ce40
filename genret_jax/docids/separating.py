"""The separating code: a last code that tells documents with otherwise equal codes apart."""

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
    """Append the separating code to the codes, and its size to the level sizes.

    Args:
        codes: Codes of every document.
        level_sizes: Codebook size of every level.
        order: Documents in the order in which those with equal codes are counted; by default that of the rows.
    """
    order = np.arange(len(codes)) if order is None else order
    whole = np.empty((len(codes), codes.shape[1] + 1), np.int32)
    whole[order] = separated(codes[order])
    return whole, (*level_sizes, int(whole[:, -1].max(initial=0)) + 1)


def next_free(taken: Int[np.ndarray, "r m_plus_1"], codes: Int[np.ndarray, "n m"]) -> Int32[np.ndarray, " n"]:
    """Return for every row a last code that no row with equal codes has.

    Args:
        taken: Rows that have a last code.
        codes: Rows that need one.

    Returns:
        For each group of equal rows, consecutive numbers after the largest that is taken, or from 0.
    """
    inverse = np.unique(np.concatenate([taken[:, :-1], codes]), axis=0, return_inverse=True)[1].reshape(-1)
    group = inverse[len(taken) :]
    free = np.zeros(inverse.max(initial=-1) + 1, np.int64)
    np.maximum.at(free, inverse[: len(taken)], taken[:, -1] + 1)
    return (free[group] + ranks_in_groups(group)).astype(np.int32)


def ranks_in_groups(group: Int[np.ndarray, " n"], *keys: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return the position of every member within its group, in the order of the keys and then of the rows."""
    order = np.lexsort((*keys, group))
    sizes = np.bincount(group)
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group[order]]
    return ranks
