"""STATIC (youtube/static-constraint-decoding) as a side of benchmark_decoding.py, run from a checkout of its own."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from genret_jax.errors import InputError

REPOSITORY = "youtube/static-constraint-decoding"


class StaticIndex(NamedTuple):
    """The index that STATIC's ``build_static_index`` returns."""

    packed_csr: Any  # int32[transitions + v, 2]  token and next state
    indptr: Any  # int32[states + 2]
    max_branches: tuple[int, ...]  # children of a node of each level at most; static where it is compiled
    start_mask: Any  # bool[v]
    dense_mask: Any  # bool[v, v]
    dense_states: Any  # int32[v, v]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays that a search reads."""
        return self.packed_csr, self.indptr, self.start_mask, self.dense_mask, self.dense_states

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.arrays)


def import_static(checkout: Path) -> None:
    """Make the checkout's modules importable.

    Raises:
        InputError: If it is no checkout of STATIC.
    """
    if not (checkout / "static_decoding" / "decoding_jax.py").is_file():
        raise InputError("no static_decoding/decoding_jax.py", file=checkout, fix=f"clone {REPOSITORY} and name it")
    sys.path.insert(0, str(checkout.resolve()))


def commit(checkout: Path) -> str:
    """The commit that is checked out."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def build_static(codes: np.ndarray, vocabulary: int) -> tuple[StaticIndex, float]:
    """Sort as STATIC's own scripts do, then build; also the seconds that sorting alone took."""
    from static_decoding.csr_utils import build_static_index

    start = time.perf_counter()
    in_order = codes[np.lexsort(codes.T[::-1])]
    sorting = time.perf_counter() - start
    csr, indptr, branches, start_mask, dense_mask, dense_states = build_static_index(in_order, vocabulary)
    branches = tuple(map(int, branches))
    return StaticIndex(csr, indptr, branches, start_mask, dense_mask, dense_states), sorting


def search_static(
    index: StaticIndex, logits_after: Callable[..., jax.Array], table: jax.Array, batch: int, beams: int
) -> Callable[[], jax.Array]:
    """Return its search over the index, exact, as a call that returns tokens ``[b, k, l]``.

    Args:
        index: The docids.
        logits_after: Called with ``table`` and tokens ``[b, k]``, returns logits ``[b, k, v]``.
        table: Array that ``logits_after`` reads; an argument of the compiled search, not a constant in it.
        batch: Queries, b.
        beams: Beams of each query, k.
    """
    from static_decoding.decoding_jax import sparse_transition_jax

    vocabulary = len(index.start_mask)
    # Its search is exact if each beam offers as many tokens as there are beams, or as many as any node has children;
    # offering the whole vocabulary would be exact too, and slower.
    offered = min(beams, index.max_branches[1])

    @jax.jit
    def search(table: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
        csr, indptr, start_mask, dense_mask, dense_states = arrays

        def model(tokens: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            return logits_after(table, tokens.reshape(batch, -1)).reshape(-1, 1, vocabulary), key

        return sparse_transition_jax(
            model,
            key=jax.random.key(0),
            batch_size=batch,
            beam_size=beams,
            tokens_per_beam=offered,
            start_token=0,
            max_sample_len=len(index.max_branches),
            vocab_size=vocabulary,
            max_branch_factors=index.max_branches,
            packed_csr=csr,
            csr_indptr=indptr,
            start_mask=start_mask,
            dense_mask=dense_mask,
            dense_states=dense_states,
        )

    arrays = jax.device_put(index.arrays)
    return lambda: search(table, arrays)
