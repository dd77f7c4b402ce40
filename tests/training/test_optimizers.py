"""Optimizers against the papers' formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.training.config import Adafactor, AdamW, Constant

KERNEL = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]], np.float32)
SCALE = np.array([1.0, 2.0, -3.0], np.float32)
GRADIENTS = [
    {"kernel": np.array([[0.1, -0.2, 0.3], [0.0, 0.5, -0.6]], np.float32), "scale": np.float32([0.3, -0.1, 0.2])},
    {"kernel": np.array([[-0.4, 0.2, 0.1], [0.7, -0.5, 0.2]], np.float32), "scale": np.float32([-0.2, 0.4, 0.1])},
]


def apply(optimizer, params, gradients):
    transformation = optimizer.build(10)

    @jax.jit
    def update_all(params, gradients):
        state = transformation.init(params)
        for gradient in gradients:
            updates, state = transformation.update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    return update_all(params, gradients)


def adamw(x, gradients, *, rate, b1, b2, eps, decay):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
    return x


def test_adamw_decays_matrices_and_leaves_scales():
    optimizer = AdamW(learning_rate=Constant(rate=0.1), b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.05)
    params = apply(optimizer, {"kernel": KERNEL, "scale": SCALE}, GRADIENTS)
    numbers = {"rate": 0.1, "b1": 0.8, "b2": 0.9, "eps": 1e-6}
    kernel = adamw(KERNEL, [g["kernel"] for g in GRADIENTS], **numbers, decay=0.05)
    np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-5)
    scale = adamw(SCALE, [g["scale"] for g in GRADIENTS], **numbers, decay=0.0)
    np.testing.assert_allclose(params["scale"], scale, rtol=1e-5)


def adafactor(x, gradients, *, rate, decay_rate):
    """Algorithm 4 of Shazeer & Stern 2018: factored moments, update clipping at RMS 1, relative step size."""
    row, column = np.zeros(x.shape[0]), np.zeros(x.shape[1])
    for t, g in enumerate(gradients, 1):
        beta = 1 - float(t) ** -decay_rate
        row = beta * row + (1 - beta) * (g**2 + 1e-30).mean(axis=1)
        column = beta * column + (1 - beta) * (g**2 + 1e-30).mean(axis=0)
        update = g / np.sqrt(np.outer(row, column) / row.mean())
        update = update / max(1.0, np.sqrt((update**2).mean()))
        x = x - rate * max(1e-3, np.sqrt((x**2).mean())) * update
    return x


def test_adafactor_is_that_of_the_paper():
    optimizer = Adafactor(learning_rate=Constant(rate=0.1), min_dim_size_to_factor=2)
    params = apply(optimizer, {"kernel": KERNEL}, [{"kernel": g["kernel"]} for g in GRADIENTS])
    kernel = adafactor(KERNEL, [g["kernel"] for g in GRADIENTS], rate=0.1, decay_rate=0.8)
    np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-4)


def test_adafactor_keeps_a_row_and_a_column_for_a_large_matrix():
    state = jax.eval_shape(Adafactor().build(10).init, {"kernel": jnp.zeros((128, 256))})
    assert sorted(leaf.size for leaf in jax.tree.leaves(state)) == [1, 1, 1, 128, 256]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: AdamW(b2=1.0), "b2"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay"),
        (lambda: Adafactor(clipping_threshold=0.5), "clipping_threshold"),
        (lambda: Adafactor(decay_rate=1.0), "decay_rate"),
    ],
)
def test_wrong_settings_name_the_field(make, name):
    with pytest.raises(InputError, match=f"next: change Ada(mW|factor).{name}"):
        make()
