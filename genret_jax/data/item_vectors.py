"""Vectors of items: similar items, and items of the same users, have similar vectors."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float

from genret_jax.data.examples.histories import training_items
from genret_jax.data.interactions import EMBEDDINGS, Interactions
from genret_jax.data.records import is_present
from genret_jax.data.text.lsa import right_singular_vectors
from genret_jax.data.vectors import LsaVectors, NpyVectors


def vectors_of_items(
    folder: str | os.PathLike[str], log: Callable[[str], None], seed: int = 0
) -> NpyVectors | LsaVectors:
    """Return the default vector source of a folder: the file ``embeddings.npy`` if there is one, else the texts.

    Args:
        folder: Folder of items and histories.
        log: Receives a line that names the source.
        seed: Seed of the analysis of the texts.
    """
    beside = Path(folder) / EMBEDDINGS
    if is_present(beside):
        log(f"vectors     {EMBEDDINGS}")
        return NpyVectors(path=os.fspath(beside))
    log(f"vectors     latent semantic analysis of the texts, as there is no {EMBEDDINGS}")
    return LsaVectors(seed=seed)


def start_vectors(
    interactions: Interactions,
    content: Float[np.ndarray, "n c"],
    width: int,
    *,
    seed: int,
    cold: Bool[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "n d"]:
    """Return a vector of length 1 for each item: half of the dimensions from its content, half from its users.

    The first half holds the leading principal components of the content vectors. The second half holds the leading
    singular vectors of the matrix of users and items; its entries are divided by the root of the user's number of items
    and of the item's number of users. Both halves have the same length, except that an item without users in training
    has its content alone.

    Args:
        interactions: Users and items; only the training part of the histories is used.
        content: Content vector of each item.
        width: Number of dimensions d.
        seed: Seed of the singular value decomposition.
        cold: Items that training must not see.
    """
    of_content = _principal(content, min(content.shape[1], width // 2))
    of_users = _shared_users(interactions, width - of_content.shape[1], seed, cold)
    joined = np.concatenate([_directions(of_content), _directions(of_users)], axis=1)
    return _directions(np.pad(joined, ((0, 0), (0, width - joined.shape[1]))))


def _principal(vectors: Float[np.ndarray, "n c"], count: int) -> Float[np.ndarray, "n k"]:
    centred = _directions(vectors - vectors.mean(axis=0, dtype=np.float32))
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    return centred @ axes[:, ::-1][:, :count]


def _shared_users(
    interactions: Interactions, count: int, seed: int, cold: Bool[np.ndarray, " n"] | None
) -> Float[np.ndarray, "n k"]:
    user, item = training_items(interactions, cold)
    shape = (interactions.num_users, len(interactions.items))
    had = scipy.sparse.csr_matrix((np.ones(len(item), np.float32), (user, item)), shape)
    had.data[:] = 1  # a user who had an item twice is one user
    of_user, of_item = (1 / np.sqrt(np.maximum(np.asarray(had.sum(axis=axis)).ravel(), 1)) for axis in (1, 0))
    weighted = (scipy.sparse.diags(of_user) @ had @ scipy.sparse.diags(of_item)).tocsr()
    vectors, values = right_singular_vectors(weighted, min(count, *shape), seed)
    return vectors * values


def _directions(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
