"""A training task of a few lines: learn to map a bag of tokens to a class, with dropout and logical axes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import partitioning


class TinyModel(nn.Module):
    """Embedding, a hidden layer with dropout, and logits; named as T5 names its axes."""

    vocab_size: int = 32
    width: int = 8
    hidden: int = 16
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(self, tokens: Any, *, deterministic: bool = True) -> jax.Array:
        """Return logits [b, v] of tokens [b, l]."""
        normal = nn.initializers.normal(0.5)
        weight = partitioning.param_with_axes
        embedding = weight("embedding", normal, (self.vocab_size, self.width), axes=("vocab", "embed"))
        scale = weight("scale", nn.initializers.ones_init(), (self.width,), axes=("embed",))
        wi = weight("wi", normal, (self.width, self.hidden), axes=("embed", "mlp"))
        wo = weight("wo", normal, (self.hidden, self.vocab_size), axes=("mlp", "vocab"))
        x = embedding[tokens].mean(axis=1) * scale[None]  # --> [b, d]
        x = partitioning.with_sharding_constraint(jnp.tanh(x @ wi), ("batch", "mlp"))
        return nn.Dropout(self.dropout_rate)(x, deterministic=deterministic) @ wo  # --> [b, v]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyTask:
    """Predict the smallest token of a row; batches are a pure function of the step.

    Attributes:
        model: The network.
        batch_size: Rows in a batch.
        fail_at: Step whose batch raises an error.
        poison_at: Step whose loss is not finite.
    """

    model: TinyModel = dataclasses.field(default_factory=TinyModel)
    batch_size: int = 16
    fail_at: int | None = None
    poison_at: int | None = None

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return parameters with their axes."""
        return self.model.init(rng, jnp.zeros((1, 4), jnp.int32))

    def loss(self, params: Any, batch: Any, dropout_rng: jax.Array) -> tuple[Any, Any, dict[str, Any]]:
        """Return the weighted cross-entropy, the weights, and how many rows are right."""
        logits = self.model.apply(
            {"params": params}, batch["tokens"], deterministic=False, rngs={"dropout": dropout_rng}
        )
        targets = jax.nn.one_hot(batch["target"], self.model.vocab_size)
        losses = -jnp.sum(jax.nn.log_softmax(logits) * targets, axis=-1) * batch["weight"]
        right = (logits.argmax(-1) == batch["target"]) * batch["weight"]
        return losses.sum(), batch["weight"].sum(), {"accuracy": right.sum()}

    def batch(self, step: int, rows: Any = None) -> dict[str, np.ndarray]:
        """Return the batch of a step, or some rows of it."""
        if step == self.fail_at:
            raise RuntimeError(f"no batch for step {step}")
        random = np.random.default_rng(step)
        tokens = random.integers(0, self.model.vocab_size, (self.batch_size, 4), dtype=np.int32)
        weight = random.integers(1, 4, self.batch_size).astype(np.float32)
        if step == self.poison_at:
            weight[0] = np.inf
        whole = {"tokens": tokens, "target": tokens.min(axis=1), "weight": weight}
        return whole if rows is None else {name: array[rows] for name, array in whole.items()}
