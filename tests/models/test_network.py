"""What T5 must keep whatever the weights: cached decoding, masks, dropout, remat, types, axes, meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import unfreeze
from flax.linen import partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genret_jax.models import T5, NodeTree, T5Config

# The docids 2-4, 2-5, 2-6, 3-4 and 3-7-8: node 0 is the root, its children have the tokens 2 and 3.
#   0 -> 1 (token 2), 2 (token 3);  1 -> 3, 4, 5 (tokens 4, 5, 6);  2 -> 6, 7 (tokens 4, 7);  7 -> 8 (token 8)
TREE = NodeTree.build(
    np.array([0, 2, 5, 7, 7, 7, 7, 7, 8, 8]), np.array([1, 2, 3, 4, 5, 6, 7, 8]), np.array([2, 3, 4, 5, 6, 4, 7, 8])
)
SMALL = T5Config(
    vocab_size=30, decoder_vocab_size=9, d_model=12, d_kv=4, num_heads=3, d_ff=20, num_encoder_layers=1,
    num_decoder_layers=2,
)  # fmt: skip
HEADS = {
    "vocabulary": {"head": "vocabulary"},
    "adaptive": {"adaptive_layers": 2},
    "narrowly adaptive": {"adaptive_layers": 1, "adaptive_width": 5},
    "prefix": {"head": "prefix", "num_nodes": 10},
    "ahead": {"head": "prefix", "num_nodes": 10, "root_lookahead": True},
}
SOURCE = jnp.array([[3, 4, 5, 0, 0, 0], [6, 7, 8, 9, 10, 1]])
# Query 0 decodes 2-5 and a padded position, query 1 decodes 3-7-8.
INPUTS = jnp.array([[0, 2, 5], [0, 3, 7]])
NODES = jnp.array([[0, 1, 4], [0, 2, 7]])


@functools.cache
def variables_of(config):
    """Return random weights that leave nothing at its neutral value, and the axes (compiling no initialisers)."""
    shapes = jax.eval_shape(T5(config).init, jax.random.key(0), SOURCE, INPUTS, NODES, TREE)
    generator = np.random.default_rng(4)

    def draw(path, leaf):
        noise = generator.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        scale = {
            "scale": 0.3,
            "kernel": leaf.shape[0] ** -0.5,
            "output_nodes": leaf.shape[-1] ** -0.5,
        }.get(name, 1.0)
        return jnp.asarray(scale * noise + (name == "scale"))

    return {"params": jax.tree_util.tree_map_with_path(draw, shapes["params"])}, shapes["params_axes"]


@pytest.fixture(scope="module", params=list(HEADS))
def small(request):
    config = dataclasses.replace(SMALL, **HEADS[request.param])
    return T5(config), variables_of(config)[0]


def run(model, variables, *arguments, **options):
    """Apply the network, compiled as a whole: one program compiles sooner than each of its operations."""
    return jax.jit(lambda variables, *arrays: model.apply(variables, *arrays, **options))(variables, *arguments)


def decode_steps(model, variables, beams, tokens, nodes, order):
    """Decode beam sequences step by step; before step i > 0 beam j continues what was beam order[i][j]."""
    encoded = run(model, variables, SOURCE, method="encode")
    cache = run(model, variables, encoded, SOURCE, length=tokens.shape[2], method="init_cache")
    step = jax.jit(lambda t, n, c: model.apply(variables, t, n, c, TREE, method="step"))
    logits, cache = step(tokens[:, :1, 0], nodes[:, :1, 0], cache)
    found = [jnp.repeat(logits, beams, axis=1)]
    for i in range(1, tokens.shape[2]):
        rows = jnp.asarray(order[i])
        cache["beams"] = jax.tree.map(lambda leaf, rows=rows: jnp.take(leaf, rows, axis=1), cache["beams"])
        logits, cache = step(tokens[:, :, i], nodes[:, :, i], cache)
        found.append(logits)
    return jnp.stack(found, axis=2)  # --> [b, k, m, v]


def test_beams_decode_as_if_teacher_forced(small):
    model, variables = small
    # Three beams: 2-5, 3-4 and 3-7-8. The last one comes to stand first, and the first one is dropped and comes back.
    paths = [([0, 2, 5], [0, 1, 4]), ([0, 3, 4], [0, 2, 6]), ([0, 3, 7], [0, 2, 7])]
    tokens, nodes = (jnp.array([[path[i] for path in paths]] * 2) for i in (0, 1))
    # Before step 1 all come from the one beam; before step 2 beams are permuted as are the prefixes they have read.
    step_1 = [2, 0, 1]
    stepped_tokens = tokens.at[:, :, 1].set(tokens[:, jnp.array(step_1), 1])
    stepped_nodes = nodes.at[:, :, 1].set(nodes[:, jnp.array(step_1), 1])
    back = [1, 2, 0]  # beam j at step 2 continues position back[j] of step 1
    found = decode_steps(model, variables, 3, stepped_tokens, stepped_nodes, {1: [0, 0, 0], 2: back})
    for j, (path_tokens, path_nodes) in enumerate(paths):
        whole = run(
            model, variables, SOURCE, jnp.array([path_tokens] * 2), jnp.array([path_nodes] * 2), TREE
        )  # --> [b, m, v]
        np.testing.assert_allclose(found[:, j, 0], whole[:, 0], atol=1e-5)
        np.testing.assert_allclose(found[:, step_1.index(j), 1], whole[:, 1], atol=1e-5)
        np.testing.assert_allclose(found[:, j, 2], whole[:, 2], atol=1e-5)


def test_step_is_the_same_compiled_into_one_loop(small):
    model, variables = small

    @jax.jit
    def unrolled(tokens, nodes):
        encoded = model.apply(variables, SOURCE, method="encode")
        cache, found = model.apply(variables, encoded, SOURCE, 3, method="init_cache"), []
        for i in range(3):
            logits, cache = model.apply(variables, tokens[:, i, None], nodes[:, i, None], cache, TREE, method="step")
            found.append(logits[:, 0])
        return jnp.stack(found, axis=1)

    whole = run(model, variables, SOURCE, INPUTS, NODES, TREE)
    np.testing.assert_allclose(unrolled(INPUTS, NODES), whole, atol=1e-5)


def test_a_step_for_some_columns_and_known_positions_at_once(small):
    """Some columns are those of all logits; positions whose tokens are known need no step of their own."""
    model, variables = small

    @jax.jit
    def decoded(tokens, nodes):
        encoded = model.apply(variables, SOURCE, method="encode")
        cache = model.apply(variables, encoded, SOURCE, 3, method="init_cache")
        first = (tokens[:, 0, None], nodes[:, 0, None], cache, TREE)
        some, _ = model.apply(variables, *first, columns=(2, 3), method="step")
        logits, cache = model.apply(variables, *first, method="step")
        later = model.apply(variables, tokens[:, None, 1:], nodes[:, None, 1:], cache, TREE, method="forced")
        return some[:, 0], jnp.concatenate([logits, later[:, 0]], axis=1)

    some, all_at_once = decoded(INPUTS, NODES)
    whole = run(model, variables, SOURCE, INPUTS, NODES, TREE)
    np.testing.assert_allclose(all_at_once, whole, atol=1e-5)
    np.testing.assert_allclose(some, whole[:, 0, 2:5], atol=1e-5)


def test_cross_attention_is_cached_once_per_query(small):
    model, variables = small
    encoded = run(model, variables, SOURCE, method="encode")
    cache = run(model, variables, encoded, SOURCE, length=3, method="init_cache")
    tokens = jnp.zeros((2, 1), jnp.int32)
    _, cache = run(model, variables, tokens, tokens, cache, TREE, method="step")
    assert {leaf.shape for leaf in jax.tree.leaves(cache["beams"])} == {(2, 1, 3, 3, 4)}
    assert {leaf.shape for leaf in jax.tree.leaves(cache["shared"]["layers"])} == {(2, 6, 3, 4)}


def test_padding_is_not_seen(small):
    model, variables = small
    longer = jnp.pad(SOURCE, ((0, 0), (0, 5)))
    whole = run(model, variables, SOURCE, INPUTS, NODES, TREE)
    np.testing.assert_allclose(run(model, variables, longer, INPUTS, NODES, TREE), whole, atol=1e-5)


def test_decoder_does_not_see_the_future(small):
    model, variables = small
    other_tokens, other_nodes = INPUTS.at[:, 2].set(6), NODES.at[:, 2].set(5)
    one, other = (
        model.apply(variables, SOURCE, *pair, TREE) for pair in ((INPUTS, NODES), (other_tokens, other_nodes))
    )
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert not np.allclose(one[:, 2], other[:, 2])


def loss_and_gradient(config, variables, **changes):
    model = T5(dataclasses.replace(config, **changes))

    def loss(params):
        logits = model.apply(
            {"params": params}, SOURCE, INPUTS, NODES, TREE, deterministic=False, rngs={"dropout": jax.random.key(5)}
        )
        return -jax.nn.log_softmax(logits)[jnp.arange(2)[:, None], jnp.arange(2)[None], INPUTS[:, 1:]].mean()

    return jax.jit(jax.value_and_grad(loss))(variables["params"])


@pytest.mark.parametrize("head", HEADS)
def test_remat_changes_nothing(head):
    config = dataclasses.replace(SMALL, **HEADS[head])
    variables = variables_of(config)[0]
    plain, remat = (loss_and_gradient(config, variables, remat=remat) for remat in (False, True))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.isclose(plain[0], loss_and_gradient(config, variables, dropout_rate=0.0)[0])


def test_bfloat16_computes_near_float32_with_float32_parameters_and_logits(small):
    model, variables = small
    fast = T5(dataclasses.replace(model.config, dtype="bfloat16"))
    fresh = jax.eval_shape(fast.init, jax.random.key(0), SOURCE, INPUTS, NODES, TREE)["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(fresh)} == {"float32"}
    assert run(fast, variables, SOURCE, method="encode").dtype == jnp.bfloat16
    exact, rounded = (run(m, variables, SOURCE, INPUTS, NODES, TREE) for m in (model, fast))
    assert rounded.dtype == jnp.float32
    possible = exact > -1e6
    np.testing.assert_array_equal(possible, rounded > -1e6)
    scale = jnp.abs(exact[possible]).mean()
    assert 0 < jnp.abs(exact - rounded)[possible].max() < 0.1 * scale + 0.1


def test_no_final_encoder_norm_leaves_out_its_parameter():
    config = dataclasses.replace(SMALL, encoder_final_norm=False)
    variables, _ = variables_of(config)
    assert "encoder_norm" not in variables["params"]["encoder"]
    encoded = run(T5(config), variables, SOURCE, method="encode")
    assert not np.allclose(jnp.mean(encoded**2, axis=-1), 1, atol=0.2)


def test_scaled_and_tied_outputs():
    tied = dataclasses.replace(SMALL, tie_embeddings=True)
    variables, _ = variables_of(tied)
    assert "logits_dense" not in variables["params"]["decoder"]
    plain = run(T5(tied), variables, SOURCE, INPUTS)
    scaled = run(T5(dataclasses.replace(tied, scale_decoder_outputs=True)), variables, SOURCE, INPUTS)
    np.testing.assert_allclose(scaled, plain * 12**-0.5, rtol=1e-5)


def test_initial_scales_are_those_of_t5():
    config = dataclasses.replace(SMALL, d_model=64, d_kv=16, num_heads=8, d_ff=256, vocab_size=500)
    params = jax.jit(T5(config).init)(jax.random.key(3), SOURCE, INPUTS)["params"]
    layer = params["decoder"]["layers_1"]
    expected = {
        ("self_attention", "query"): (64 * 16) ** -0.5,
        ("self_attention", "key"): 64**-0.5,
        ("self_attention", "out"): 128**-0.5,
        ("encoder_decoder_attention", "query"): (64 * 16) ** -0.5,
        ("mlp", "wi_0"): 64**-0.5,
        ("mlp", "wo"): 256**-0.5,
    }
    for (sublayer, name), deviation in expected.items():
        assert layer[sublayer][name]["kernel"].std() == pytest.approx(deviation, rel=0.06)
    assert params["token_embedder"]["embedding"].std() == pytest.approx(1, rel=0.03)


RULES = (
    ("batch", "data"), ("vocab", "model"), ("heads", "model"), ("joined_kv", "model"), ("mlp", "model"),
    ("nodes", "model"), ("embed", None), ("length", None), ("kv", None), ("relpos_buckets", None),
)  # fmt: skip


@pytest.mark.parametrize(("head", "shape"), [("vocabulary", (4, 2)), ("prefix", (2, 4)), ("ahead", (4, 2))])
def test_a_mesh_changes_neither_loss_nor_dropout(head, shape):
    # Widths that divide by four, and not: the vocabularies have to divide, or nothing is sharded there.
    extra = {**HEADS[head], "num_nodes": 12} if head != "vocabulary" else HEADS[head]
    config = dataclasses.replace(SMALL, vocab_size=32, decoder_vocab_size=12, num_heads=4, d_kv=3, **extra)
    variables, axes = variables_of(config)
    source, inputs, nodes = (jnp.tile(x, (4, 1)) for x in (SOURCE, INPUTS, NODES))

    def loss(params, source, inputs, nodes):
        logits = T5(config).apply(
            {"params": params}, source, inputs, nodes, TREE, deterministic=False, rngs={"dropout": jax.random.key(5)}
        )
        return jax.nn.log_softmax(logits)[:, 0, 2].mean()

    alone = jax.jit(jax.value_and_grad(loss))(variables["params"], source, inputs, nodes)
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = jax.tree.map(
        lambda axes: NamedSharding(mesh, partitioning.logical_to_mesh_axes(tuple(axes), RULES)),
        unfreeze(partitioning.get_axis_names(axes)),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    with jax.set_mesh(mesh), partitioning.axis_rules(RULES):
        params = jax.device_put(variables["params"], specs)
        rows = NamedSharding(mesh, PartitionSpec("data"))
        batch = [jax.device_put(x, rows) for x in (source, inputs, nodes)]
        together = jax.jit(jax.value_and_grad(loss))(params, *batch)
    sharded = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(params)}
    assert any("model" in spec for spec in sharded)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_axis_names_are_t5x_s():
    axes = jax.eval_shape(T5(SMALL).init, jax.random.key(0), SOURCE, INPUTS)["params_axes"]
    names = jax.tree_util.tree_leaves_with_path(
        unfreeze(partitioning.get_axis_names(axes)), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    found = {"/".join(key.key for key in path): tuple(spec) for path, spec in names}
    assert found["token_embedder/embedding"] == ("vocab", "embed")
    assert found["encoder/relpos_bias/rel_embedding"] == ("heads", "relpos_buckets")
    assert found["encoder/layers_0/attention/query/kernel"] == ("embed", "joined_kv")
    assert found["encoder/layers_0/attention/out/kernel"] == ("joined_kv", "embed")
    assert found["decoder/layers_0/encoder_decoder_attention/value/kernel"] == ("embed", "joined_kv")
    assert found["decoder/layers_1/mlp/wi_1/kernel"] == ("embed", "mlp")
    assert found["decoder/layers_1/mlp/wo/kernel"] == ("mlp", "embed")
    assert found["decoder/layers_0/pre_cross_attention_layer_norm/scale"] == ("embed",)
    assert found["decoder/decoder_norm/scale"] == ("embed",)
    assert found["decoder/logits_dense/kernel"] == ("embed", "vocab")
