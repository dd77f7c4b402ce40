"""A start from public weights: what is taken from them, and what new rows are."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import read_checkpoint

from genret_jax.errors import InputError
from genret_jax.models import T5
from genret_jax.models.convert.pretrained import extend_vocabulary, load_into
from genret_jax.models.convert.t5x_legacy import save_t5x

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FAMILIES = ["t5_1_1", "t5_1_0"]
TOKENS = jax.ShapeDtypeStruct((1, 2), jnp.int32)


def initialised(config):
    shapes = jax.eval_shape(T5(config).init, jax.random.key(0), TOKENS, TOKENS)["params"]
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize("family", FAMILIES)
def test_start_from_a_checkpoint_with_further_docid_tokens(family):
    public, weights = read_checkpoint(GOLDEN / family)
    config = dataclasses.replace(public, vocab_size=64)
    start = initialised(config)
    params = load_into(start, config, GOLDEN / family)
    table = params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(table[:40], weights["token_embedder"]["embedding"])
    assert table[40:].std() == pytest.approx(table[:40].std(), rel=0.2)
    assert params["decoder"]["layers_1"] is not start["decoder"]["layers_1"]
    np.testing.assert_array_equal(
        params["decoder"]["layers_1"]["mlp"]["wo"]["kernel"], weights["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
    )
    # On text the larger network computes what the checkpoint computes.
    expected = load_file(GOLDEN / family / "expected.safetensors")
    source, target = jnp.asarray(expected["source"][:, :9]), jnp.asarray(expected["target"][:, :3])
    logits = [T5(c).apply({"params": p}, source, target)[..., :40] for c, p in ((config, params), (public, weights))]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_start_of_a_decoder_with_its_own_vocabulary():
    public, weights = read_checkpoint(GOLDEN / "t5_1_1")
    text_first = dataclasses.replace(public, decoder_vocab_size=50)
    params = load_into(initialised(text_first), text_first, GOLDEN / "t5_1_1")
    np.testing.assert_array_equal(
        params["decoder_token_embedder"]["embedding"][:40], weights["token_embedder"]["embedding"]
    )
    docids_only = dataclasses.replace(public, decoder_vocab_size=12)
    start = initialised(docids_only)
    params = load_into(start, docids_only, GOLDEN / "t5_1_1")
    np.testing.assert_array_equal(
        params["decoder"]["logits_dense"]["kernel"], start["decoder"]["logits_dense"]["kernel"]
    )
    np.testing.assert_array_equal(
        params["decoder_token_embedder"]["embedding"], start["decoder_token_embedder"]["embedding"]
    )


def test_start_of_another_network_names_all_fields():
    public, _ = read_checkpoint(GOLDEN / "t5_1_1")
    config = dataclasses.replace(public, d_ff=32, num_heads=2, encoder_final_norm=False)
    with pytest.raises(InputError) as caught:
        load_into({}, config, GOLDEN / "t5_1_1")
    for part in ("num_heads 2 instead of 3", "d_ff 32 instead of 24", "encoder_final_norm False instead of True"):
        assert part in str(caught.value)


def test_the_start_is_the_same_from_t5x(tmp_path):
    public, weights = read_checkpoint(GOLDEN / "t5_1_1")
    save_t5x(tmp_path / "t5x", weights, public, step=7)
    config = dataclasses.replace(public, vocab_size=64)
    start = initialised(config)
    for ours, theirs in zip(
        jax.tree.leaves(load_into(start, config, tmp_path / "t5x")),
        jax.tree.leaves(load_into(start, config, GOLDEN / "t5_1_1")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_rows_touch_nothing_else(family):
    config, params = read_checkpoint(GOLDEN / family)
    before = jax.tree.map(np.copy, params)
    more, extended = extend_vocabulary(params, config, 4000, seed=3)
    assert extended == dataclasses.replace(config, vocab_size=4000)
    tables = [more["token_embedder"].pop("embedding")]
    olds = [before["token_embedder"]["embedding"]]
    if not config.tie_embeddings:
        tables.append(more["decoder"]["logits_dense"].pop("kernel").T)
        olds.append(before["decoder"]["logits_dense"]["kernel"].T)
    for table, old in zip(tables, olds, strict=True):
        assert table.shape == (4000, 16)
        np.testing.assert_array_equal(table[:40], old)
        new = table[40:]
        assert new.std() == pytest.approx(old.std(), rel=0.01)
        assert abs(new.mean()) < 4 * old.std() / np.sqrt(new.size)
        assert abs(np.corrcoef(new[:, 0], new[:, 1])[0, 1]) < 0.1
    for path, leaf in jax.tree_util.tree_leaves_with_path(more):
        kept = before
        for key in path:
            kept = kept[key.key]
        np.testing.assert_array_equal(leaf, kept)
    assert params["token_embedder"]["embedding"].shape == (40, 16), "what was given stays"


def test_new_rows_follow_the_seed_and_fewer_rows_are_refused():
    config, params = read_checkpoint(GOLDEN / "t5_1_1")
    one, again, other = (
        extend_vocabulary(params, config, 48, seed=seed)[0]["token_embedder"]["embedding"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one[40:] != other[40:]).all()
    with pytest.raises(InputError, match="a vocabulary of 39 rows; expected at least the checkpoint's 40"):
        extend_vocabulary(params, config, 39)
