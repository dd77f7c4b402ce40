"""t5x's two layouts, read and written without t5x."""

import dataclasses
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from support.checkpoints import read_checkpoint

from genret_jax.errors import InputError
from genret_jax.models.convert.public_checkpoint import open_checkpoint
from genret_jax.models.convert.t5x_legacy import save_t5x
from genret_jax.models.convert.t5x_orbax import restore_params

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FAMILIES = ["t5_1_1", "t5_1_0"]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def weights():
    return read_checkpoint(GOLDEN / "t5_1_1")


@pytest.fixture
def written(weights, tmp_path):
    """The folder checkpoint_7 of that model, for tests to break."""
    config, params = weights
    save_t5x(tmp_path / "model", params, config, step=7)
    return tmp_path / "model" / "checkpoint_7"


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, tmp_path):
    config, params = read_checkpoint(GOLDEN / family)
    save_t5x(tmp_path / "model", params, config, step=1_000_000, sentencepiece=b"pieces")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["checkpoint_1000000", "spiece.model"]
    for path in (tmp_path / "model", tmp_path / "model" / "checkpoint_1000000"):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.config, checkpoint.stored.step, checkpoint.stored.others) == (config, 1_000_000, 1)
        assert_same(checkpoint.load(), params)


def test_the_tree_is_as_t5x_has_it(written, weights):
    """By the layout's own description: relative paths in the tree, a Zarr folder for each parameter."""
    tree = msgpack_restore((written / "checkpoint").read_bytes())
    assert tree["version"] == 3
    assert tree["optimizer"]["state"]["step"] == 7
    leaf = tree["optimizer"]["target"]["decoder"]["layers_2"]["mlp"]["wi_1"]["kernel"]
    assert leaf["driver"] == "zarr"
    assert leaf["dtype"] == "float32"
    assert leaf["kvstore"] == {"driver": "file", "path": "target.decoder.layers_2.mlp.wi_1.kernel/"}
    assert leaf["metadata"]["shape"] == [16, 24]
    # Read as anybody reads a Zarr array.
    spec = {**leaf, "kvstore": {"driver": "file", "path": f"{written}/{leaf['kvstore']['path']}"}}
    array = tensorstore.open(spec, open=True).result().read().result()
    np.testing.assert_array_equal(array, weights[1]["decoder"]["layers_2"]["mlp"]["wi_1"]["kernel"])


def rewrite(written, change):
    """Change every specification in the tree file."""
    tree = msgpack_restore((written / "checkpoint").read_bytes())
    flat = flatten_dict(tree, is_leaf=lambda _, value: "kvstore" in value)
    flat = {keys: change(keys, leaf) if isinstance(leaf, dict) else leaf for keys, leaf in flat.items()}
    (written / "checkpoint").write_bytes(msgpack_serialize(unflatten_dict(flat)))


def in_a_bucket(_, leaf):
    """As the published checkpoints are, which were written to one; the path lies beside the store."""
    return {**leaf, "kvstore": {"driver": "gcs", "bucket": "somewhere"}, "path": leaf["kvstore"]["path"]}


def newer_bucket(_, leaf):
    return {**leaf, "kvstore": {"driver": "gcs", "bucket": "somewhere", "path": leaf["kvstore"]["path"]}}


def placeholder(_, leaf):
    """As Orbax's first layout."""
    return "PLACEHOLDER://" + leaf["kvstore"]["path"].rstrip("/")


@pytest.mark.parametrize("path", ["../elsewhere", "a/../../elsewhere", 7])
def test_arrays_outside_the_folder_are_refused(path, written):
    rewrite(written, lambda keys, leaf: {**leaf, "kvstore": {"driver": "file", "path": path}})
    with pytest.raises(InputError, match=r"checkpoint: names .* relative path within"):
        open_checkpoint(written)
    rewrite(written, lambda keys, leaf: f"PLACEHOLDER://{path}")
    if isinstance(path, str):
        with pytest.raises(InputError, match=r"checkpoint: names .* relative path within"):
            open_checkpoint(written)


@pytest.mark.parametrize("form", [in_a_bucket, newer_bucket, placeholder])
def test_every_form_of_reference_is_followed(form, written, weights):
    rewrite(written, form)
    moved = written.rename(written.with_name("elsewhere"))
    checkpoint = open_checkpoint(moved)
    assert checkpoint.config == weights[0]
    assert_same(checkpoint.load(), weights[1])


def test_arrays_within_the_tree_file_and_an_optimizer_beside_them(written, weights):
    flat = flatten_dict(weights[1])

    def inline(keys, leaf):
        value = flat[keys[2:]]
        return value.astype(ml_dtypes.bfloat16) if "mlp" in keys else value

    rewrite(written, inline)
    tree = msgpack_restore((written / "checkpoint").read_bytes())
    tree["optimizer"]["state"]["param_states"] = {"token_embedder": {"embedding": {"v_row": np.zeros(16, np.float32)}}}
    (written / "checkpoint").write_bytes(msgpack_serialize(tree))
    checkpoint = open_checkpoint(written)
    assert checkpoint.stored.others == 2
    assert checkpoint.stored.arrays["decoder/layers_0/mlp/wo/kernel"].dtype == "bfloat16"
    for ours, exact in zip(jax.tree.leaves(checkpoint.load()), jax.tree.leaves(weights[1]), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=2**-8)


def test_large_arrays_are_cut_into_chunks(tmp_path, monkeypatch, weights):
    monkeypatch.setattr("genret_jax.models.convert.t5x_legacy._CHUNK_BYTES", 16 * 4 * 3)
    config, params = weights
    save_t5x(tmp_path / "model", params, config)
    folder = tmp_path / "model" / "checkpoint_0" / "target.token_embedder.embedding"
    assert len(list(folder.glob("[0-9]*"))) == 14  # 40 rows, three a chunk
    assert_same(open_checkpoint(tmp_path / "model").load(), params)


def test_half_a_download_is_no_checkpoint(written):
    name = "target.encoder.layers_1.mlp.wi_0.kernel"
    chunk = written / name / "0.0"
    whole = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(InputError, match=rf"{name}: 1 of 1 chunks are missing; next: copy or download the folder"):
        open_checkpoint(written)
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"{name}: damaged"):
        open_checkpoint(written).load()
    shutil.rmtree(written / name)
    with pytest.raises(InputError, match=rf"{name}: no Zarr array that can be read"):
        open_checkpoint(written)
    (written / "checkpoint").write_bytes(b"\x81\xa1")
    with pytest.raises(InputError, match="checkpoint: not a MessagePack file, or damaged"):
        open_checkpoint(written)


def test_bits_of_an_old_version_are_not_taken_for_numbers(written):
    rewrite(written, lambda keys, leaf: np.zeros(leaf["metadata"]["shape"], np.uint16))
    with pytest.raises(InputError, match="is of type uint16; expected one of float16, bfloat16, float32, float64"):
        open_checkpoint(written)


def test_nothing_is_written_over_and_nothing_that_does_not_fit(weights, tmp_path):
    config, params = weights
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="the output already exists"):
        save_t5x(tmp_path / "taken", params, config)
    tied = dataclasses.replace(config, tie_embeddings=True, scale_decoder_outputs=True)
    with pytest.raises(InputError, match="do not fit the configuration: 1 unexpected: decoder/logits_dense/kernel"):
        save_t5x(tmp_path / "out", params, tied)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "taken"]


# --- Orbax ----------------------------------------------------------------------------------------------------------


def save_orbax(folder, tree, item="state"):
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.Composite(**{item: ocp.args.PyTreeSave(tree)}))


@pytest.mark.parametrize("family", FAMILIES)
def test_orbax_with_an_optimizer_as_t5x_writes_it(family, tmp_path):
    config, params = read_checkpoint(GOLDEN / family)
    states = {"v_row": np.zeros(3, np.float32), "empty": {}}
    state = {"step": np.int32(30), "param_states": {"token_embedder": {"embedding": states}}}
    for step in (4, 30):
        save_orbax(tmp_path / "model" / f"checkpoint_{step}", {"target": params, "state": state})
    for path in (tmp_path / "model", tmp_path / "model" / "checkpoint_30", tmp_path / "model/checkpoint_30/state"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.config == config
        assert (checkpoint.stored.step, checkpoint.stored.others) == (30, 2)
        assert checkpoint.stored.shapes["token_embedder/embedding"] == (40, 16)
        assert_same(checkpoint.load(), params)


def test_orbax_onto_devices(tmp_path, weights):
    """The arrays come to lie as those of the network they are for, and another network is refused."""
    _, params = weights
    save_orbax(tmp_path / "checkpoint_3", {"target": params, "state": {"step": np.int32(3)}})
    mesh = jax.make_mesh((8,), ("data",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    like["token_embedder"]["embedding"] = jax.ShapeDtypeStruct((40, 16), np.float32, sharding=place)
    restored = restore_params(tmp_path / "checkpoint_3" / "state", like)
    assert restored["token_embedder"]["embedding"].sharding == place
    assert_same(jax.tree.map(np.asarray, restored), params)
    like["token_embedder"]["embedding"] = jax.ShapeDtypeStruct((48, 16), np.float32)
    with pytest.raises(InputError, match=r"1 different: token_embedder/embedding \[40, 16\] instead of \[48, 16\]"):
        restore_params(tmp_path / "checkpoint_3" / "state", like)


def test_orbax_in_half_precision_and_parameters_alone(tmp_path, weights):
    config, params = weights
    half = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "alone", args=ocp.args.StandardSave(half))
    checkpoint = open_checkpoint(tmp_path / "alone")
    assert checkpoint.config == config
    assert {array.dtype for array in checkpoint.stored.arrays.values()} == {"bfloat16"}
    assert_same(checkpoint.load(), jax.tree.map(lambda leaf: leaf.astype(np.float32), half))


def test_damaged_orbax(tmp_path, weights):
    save_orbax(tmp_path / "checkpoint_1", {"target": weights[1]})
    state = tmp_path / "checkpoint_1" / "state"
    data = [file for file in state.rglob("d/*") if file.is_file()]
    assert data
    for file in data:
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"an Orbax checkpoint that cannot be read .*; next: copy or download"):
        open_checkpoint(tmp_path / "checkpoint_1").load()
    (state / "_METADATA").write_text("{")
    with pytest.raises(InputError, match="an Orbax checkpoint that cannot be read"):
        open_checkpoint(tmp_path / "checkpoint_1")
