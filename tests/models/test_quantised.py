"""Vectors in int8 beside the same in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.models import quantised as quantised_module
from genret_jax.models.plan import inner_products
from genret_jax.models.quantised import quantised, scaled_products


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_by_hand():
    rows, scales = quantised(np.array([[1.27, -0.3, 0.004], [0, 0, 0], [-254, 3, 127]], np.float32))
    assert rows.tolist() == [[127, -30, 0], [0, 0, 0], [-127, 2, 64]]  # 1.5 and 63.5 to the even neighbour
    np.testing.assert_allclose(scales, [0.01, 1, 2], rtol=1e-6)
    assert [array.shape for array in quantised(np.zeros((0, 3), np.float32))] == [(0, 3), (0,)]


@pytest.mark.parametrize("rows", [1, 63, 64, 200])  # less than a block, a block, and some with a part of one
@pytest.mark.parametrize("kind", ["blocks", "at once"])
def test_products_and_gradients_are_those_of_the_rounded_rows(rows, kind, monkeypatch):
    monkeypatch.setattr(quantised_module, "_ROWS_AT_ONCE", 64)
    if kind == "at once":  # as on other devices than CPUs
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    numbers, scales = map(jnp.asarray, quantised(unit_vectors(rows, 24, 0)))
    vectors = jnp.asarray(unit_vectors(5, 24, 1), jnp.bfloat16).astype(jnp.float32)  # which no rounding changes
    back = np.asarray(numbers) * np.asarray(scales)[:, None]
    np.testing.assert_allclose(scaled_products(vectors, numbers, scales), vectors @ back.T, atol=1e-6)
    direction = np.random.default_rng(2).integers(-9, 9, (5, rows)).astype(np.float32)
    total = lambda vectors: jnp.sum(scaled_products(vectors, numbers, scales) * direction)  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(total))(vectors), direction @ back, atol=2e-2 * rows**0.5)


def test_the_error_is_bounded_and_the_ranking_nearly_the_same():
    documents, queries = unit_vectors(10_000, 384, 0), unit_vectors(64, 384, 1)
    exact = queries @ documents.T
    rows, scales = quantised(documents)
    found = np.asarray(inner_products(jnp.asarray(queries), jnp.asarray(rows), jnp.asarray(scales)))
    # Half a scale for each number of the row, and half a step of bfloat16 for each number of the query.
    bound = 0.5 * np.abs(queries).sum(1)[:, None] * scales[None] + 2.0**-9 * np.abs(queries) @ np.abs(documents).T
    assert (np.abs(found - exact) <= bound + 1e-6).all()
    assert np.abs(found - exact).max() < 0.003  # errors of random signs nearly cancel; the bound is 0.01
    best = [np.argsort(-scores, axis=1)[:, :10] for scores in (exact, found)]
    kept = np.mean([len(np.intersect1d(one, other)) / 10 for one, other in zip(*best, strict=True)])
    assert kept > 0.95
    regret = exact.max(axis=1) - np.take_along_axis(exact, best[1], axis=1)[:, 0]
    assert regret.max() < 0.003


@pytest.mark.parametrize("queries", [1, 3])
def test_products_with_rows_in_bfloat16_are_those_of_the_rounded_numbers(queries):
    """One query takes another way than several."""
    asked, rows = (jnp.asarray(unit_vectors(count, 24, count), jnp.bfloat16) for count in (queries, 50))
    expected = np.asarray(asked, np.float32) @ np.asarray(rows, np.float32).T
    np.testing.assert_allclose(inner_products(asked.astype(jnp.float32), rows, None), expected, atol=1e-6)
    total = lambda vectors: jnp.sum(inner_products(vectors, rows, None) * expected)  # noqa: E731
    gradient = jax.grad(total)(asked.astype(jnp.float32))
    np.testing.assert_allclose(gradient, expected @ np.asarray(rows, np.float32), atol=2e-2)
