"""The real network through the real loop: T5 on a mesh learns as it does on one device."""

import jax
import jax.numpy as jnp
import numpy as np

from genret_jax.losses import cross_entropy
from genret_jax.models import T5, T5Config
from genret_jax.training import Adafactor, Constant, train


class Copy:
    """Write the first four tokens of the input, with dropout."""

    model = T5(
        T5Config(
            vocab_size=32, d_model=16, d_kv=4, num_heads=4, d_ff=32, num_encoder_layers=1, num_decoder_layers=1,
            dropout_rate=0.2,
        )
    )  # fmt: skip

    def init(self, rng):
        token = jnp.zeros((1, 1), jnp.int32)
        return self.model.init(rng, token, token)

    def batch(self, step):
        # The same rows at every step: six steps show learning only where the batch's own luck does not hide it.
        tokens = np.random.default_rng(0).integers(2, 32, (16, 6), dtype=np.int32)
        return {"inputs": tokens, "targets": tokens[:, :4]}

    def loss(self, params, batch, dropout_rng):
        decoder_inputs = jnp.pad(batch["targets"], ((0, 0), (1, 0)))[:, :-1]
        logits = self.model.apply(
            {"params": params}, batch["inputs"], decoder_inputs, deterministic=False, rngs={"dropout": dropout_rng}
        )
        return *cross_entropy(logits, batch["targets"], jnp.ones(decoder_inputs.shape)), {}


def test_t5_on_a_mesh_has_the_losses_of_one_device(tiny_config, records, tmp_path):
    optimizer = Adafactor(learning_rate=Constant(rate=0.05), min_dim_size_to_factor=16)
    losses = {}
    for mesh in ((1, 1), (2, 4)):
        folder = tmp_path / f"{mesh}"
        config = tiny_config(
            steps=6,
            optimizer=optimizer,
            checkpoint_every=None,
            data_parallel=mesh[0],
            model_parallel=mesh[1],
            gradient_accumulation=2,
            steps_per_dispatch=3,
        )
        result = train(Copy(), config, folder)
        losses[mesh] = [record["loss"] for record in records(folder)]
    assert losses[1, 1][-1] < losses[1, 1][0]
    np.testing.assert_allclose(losses[2, 4], losses[1, 1], atol=1e-5)
    specs = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(result.params)}
    assert any("model" in spec for spec in specs)
