"""The start from the corpus: with its small branches silenced, the network is a nearest-centroid retriever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5
from support.tiny_run import tiny_experiment, word

from genret_jax.data.text.lsa import lsa
from genret_jax.docids import AtomicDocids
from genret_jax.errors import InputError
from genret_jax.models import T5
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoders.config import SentenceForm
from genret_jax.models.initialize import ItemStart, LsaStart, start_from_vectors
from genret_jax.models.network import random_variables
from genret_jax.models.start import Start, Vectors, source_of
from genret_jax.retriever import Retriever
from genret_jax.run import prepare


def silenced(**scales):
    return LsaStart(residual_scale=0.0, query_scale=0.0, **scales)


@pytest.fixture(scope="module")
def plain(tiny_corpus, tmp_path_factory):
    """An untrained run of atomic docids that nothing but its vectors decides."""
    network = {"dropout_rate": 0.0}
    experiment = tiny_experiment(tiny_corpus, docids=AtomicDocids(), start=silenced(), model=network)
    with pytest.warns(UserWarning, match="neither title nor text"):
        return prepare(experiment, tmp_path_factory.mktemp("plain") / "run", log=lambda line: None)


def test_the_untrained_network_ranks_like_nearest_centroids_by_hand(plain):
    queries = [f"{word(topic, 12)} {word(topic, 0)} {word((topic + 3) % 8, 17)}" for topic in range(4)]
    found = lsa(plain.store.token_counts(), plain.model.d_model, plain.seed)
    tokens = found.terms * found.idf[:, None]
    sizes = np.sqrt(np.mean(tokens**2, axis=1))
    tokens *= 0.5 / np.median(sizes[sizes > 1e-4 * sizes.max()])  # token_scale; smaller ones are rounding
    norms = np.linalg.norm(found.documents, axis=1, keepdims=True)
    documents = np.where(norms > 0, found.documents / np.maximum(norms, 1e-9), 0)
    root = documents.sum(axis=0)
    nodes, root = 1.3 * documents, 1.3 * root / np.linalg.norm(root)  # node_scale

    results = Retriever(plain, plain.start_params()).search(queries, k=64, beam=64)
    for query, ranked in zip(queries, results, strict=True):
        ids = [token for token in plain.encode([query])[0] if token]
        hidden = root + 2.0 * tokens[ids].mean(axis=0)  # value_scale
        logits = nodes @ (hidden / np.sqrt(np.mean(hidden**2)))  # the decoder's norm
        expected = logits - np.log(np.exp(logits).sum())
        for result in ranked:
            assert result.score == pytest.approx(expected[plain.corpus.document_index[result.doc_id]], abs=2e-4)
        by_hand = [plain.corpus.doc_ids[i] for i in np.argsort(-expected, kind="stable")]
        assert [result.doc_id for result in ranked][:20] == by_hand[:20]


def small():
    config = tiny_t5(head="prefix", num_nodes=8, decoder_vocab_size=8, encoder_final_norm=False)
    params = jax.eval_shape(lambda: random_params(config))
    return config, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.25, np.float32), params)


def random_params(config):
    from genret_jax.models import NodeTree

    tree = NodeTree.build(np.array([0, 2, 2, 2]), np.array([1, 2]), np.array([2, 3]))
    token = jnp.zeros((1, 1), jnp.int32)
    return T5(config).init(jax.random.key(0), token, token, token, tree)["params"]


def test_what_changes_and_what_does_not():
    config, params = small()
    tokens = np.zeros((32, 16), np.float32)
    tokens[3, 0], tokens[4, 1], tokens[5, 0] = 1.0, 2.0, 4.0
    nodes = np.array([[3.0] + [0.0] * 15, [0.0] * 15 + [0.1]], np.float32)
    start = start_from_vectors(params, config, LsaStart(), token_vectors=tokens, node_vectors=nodes, seed=1)
    embedding = start["token_embedder"]["embedding"]
    sizes = np.sqrt(np.mean(embedding**2, axis=1))
    np.testing.assert_allclose(sizes[[3, 4, 5]], [0.25, 0.5, 1.0], rtol=1e-5)  # the median one has token_scale
    np.testing.assert_allclose(sizes[[0, 1, 2, 6, 31]], 0.5, rtol=1e-5)  # rows without a vector: at that scale too
    assert embedding[3] @ embedding[5] == pytest.approx(16 * 0.25, rel=1e-4)  # a rotation keeps angles
    assert embedding[3] @ embedding[4] == pytest.approx(0, abs=1e-5)
    head = start["decoder"]["prefix_head"]
    for table in ("input_nodes", "output_nodes"):
        np.testing.assert_allclose(np.linalg.norm(head[table][:2], axis=1), 1.3, rtol=1e-5)
        np.testing.assert_array_equal(head[table][2:], 0.25)
    attention = start["decoder"]["layers_0"]["encoder_decoder_attention"]
    np.testing.assert_array_equal(attention["value"]["kernel"], 2.0 * np.eye(16))
    np.testing.assert_array_equal(attention["out"]["kernel"], np.eye(16))
    np.testing.assert_allclose(attention["query"]["kernel"], 0.25 * 0.3)
    np.testing.assert_array_equal(attention["key"]["kernel"], 0.25)
    for stack, branch in (("encoder", "attention"), ("decoder", "self_attention")):
        layer = start[stack]["layers_0"]
        np.testing.assert_allclose(layer[branch]["out"]["kernel"], 0.25 * 0.05)
        np.testing.assert_allclose(layer["mlp"]["wo"]["kernel"], 0.25 * 0.05)
        np.testing.assert_array_equal(layer[branch]["value"]["kernel"], 0.25)
    assert (params["token_embedder"]["embedding"] == 0.25).all(), "what was given stays"


def test_every_scale_is_a_factor_of_what_it_is_named_for():
    config, params = small()
    tokens, nodes = np.eye(32, 16, dtype=np.float32), np.eye(2, 16, dtype=np.float32)
    usual, larger = (
        start_from_vectors(params, config, scales, token_vectors=tokens, node_vectors=nodes, seed=1)
        for scales in (LsaStart(), LsaStart(node_scale=2.6, value_scale=6.0, token_scale=2.0))
    )
    for path, factor in (
        (("token_embedder", "embedding"), 4.0),
        (("decoder", "prefix_head", "output_nodes"), 2.0),
        (("decoder", "layers_0", "encoder_decoder_attention", "value", "kernel"), 3.0),
    ):
        one, other = usual, larger
        for name in path:
            one, other = one[name], other[name]
        np.testing.assert_allclose(other[:2], factor * one[:2], rtol=1e-6)


def test_rounding_is_no_measure_of_the_other_tokens():
    config, params = small()
    tokens = np.full((32, 16), 1e-12, np.float32)  # as the analysis leaves bytes that no document has
    tokens[3, 0], tokens[4, 1], tokens[5, 0] = 1.0, 2.0, 4.0
    start = start_from_vectors(params, config, LsaStart(), token_vectors=tokens, node_vectors=None, seed=1)
    sizes = np.sqrt(np.mean(start["token_embedder"]["embedding"] ** 2, axis=1))
    np.testing.assert_allclose(sizes[[3, 4, 5]], [0.25, 0.5, 1.0], rtol=1e-5)
    assert sizes[6:].max() < 1e-10


def test_the_rotation_follows_the_seed():
    config, params = small()
    vectors = {"token_vectors": np.eye(32, 16, dtype=np.float32), "node_vectors": np.eye(2, 16, dtype=np.float32)}
    first, again, other = (
        start_from_vectors(params, config, LsaStart(), **vectors, seed=seed)["token_embedder"]["embedding"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_allclose(first[:16] @ first[:16].T, other[:16] @ other[:16].T, atol=1e-4)


def test_the_attention_must_be_as_wide_as_the_model():
    config = tiny_t5(d_kv=4)
    with pytest.raises(InputError) as error:
        start_from_vectors({}, config, LsaStart(), token_vectors=np.eye(32, 16), node_vectors=None, seed=0)
    assert "T5Config.num_heads * d_kv is 8; expected d_model (16)" in str(error.value)


def test_with_the_vocabulary_head_a_code_begins_as_what_its_nodes_agree_on():
    """Nodes 1 and 2 are clusters; code 7 leads on in both, the same way, code 8 in opposite ways."""
    config = tiny_t5(encoder_final_norm=False)
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.25, np.float32), jax.eval_shape(lambda: random_params(config))
    )
    east, north, up = np.eye(3, 16, dtype=np.float32)
    nodes = np.stack([east + north, east, north, up, up, -east, -north])
    token, parent = np.array([0, 5, 6, 7, 7, 8, 8]), np.array([0, 0, 0, 1, 2, 1, 2])
    given = {"token_vectors": np.eye(32, 16, dtype=np.float32), "node_vectors": nodes, "edges": (token, parent)}
    start = start_from_vectors(params, config, LsaStart(residual_scale=0.0), **given, seed=1)
    kernel, embedding = start["decoder"]["logits_dense"]["kernel"], start["token_embedder"]["embedding"]
    rows = kernel.T[[5, 6, 7, 8]]
    expected = 1.3 * np.stack([east, north, up - (east + north) / 2, -(east + north)])
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-5)  # up to one rotation
    np.testing.assert_array_equal(embedding[[5, 6, 7, 8]], rows)
    assert embedding[0] @ rows[0] == pytest.approx(1.3**2 / np.sqrt(2), rel=1e-5)  # the start is the whole corpus
    np.testing.assert_array_equal(kernel[:, 9:], 0.25)


class Facts:
    """Facts of four documents, of which training does not show the last; it records what is asked for."""

    seed = 3

    def __init__(self, docids=None):
        self.docids, self.asked = docids, []
        self.tree = type("Tree", (), {"node_token": np.array([0, 5]), "parents": np.array([0, 0])})

    def latent(self, width):
        self.asked.append("latent")
        return Vectors(np.eye(9, width, dtype=np.float32), np.arange(4 * width, dtype=np.float32).reshape(4, width))

    def token_counts(self):
        raise AssertionError("no start of this package asks for counts")

    def shown(self):
        self.asked.append("shown")
        return np.array([True, True, True, False])

    def cosine_weight(self):
        self.asked.append("cosine weight")
        return 0.5

    def stop_terms(self):
        self.asked.append("stop terms")
        return np.array([2])

    def node_vectors(self, documents):
        return np.stack([documents.sum(0), documents[0] - documents[3]])

    def node_means(self, documents):
        return documents[:2]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_start_asks_only_for_the_facts_that_the_network_needs():
    config, params = small()
    facts = Facts()
    found = LsaStart().initial_params(params, config, facts)
    tokens = np.eye(32, 16, dtype=np.float32)
    tokens[9:] = 0  # nine tokens are text
    assert_same(found, start_from_vectors(params, config, LsaStart(), token_vectors=tokens, node_vectors=None, seed=3))
    assert facts.asked == ["latent"]


def test_nodes_know_all_documents_and_codes_only_those_shown():
    documents = np.arange(64, dtype=np.float32).reshape(4, 16)
    config, params = small()
    given = {"token_vectors": np.eye(32, 16, dtype=np.float32) * (np.arange(32) < 9)[:, None], "seed": 3}
    facts = Facts()
    facts.docids = facts
    nodes = facts.node_vectors(documents)
    expected = start_from_vectors(params, config, LsaStart(), node_vectors=nodes, **given)
    assert_same(LsaStart().initial_params(params, config, facts), expected)
    config = tiny_t5(encoder_final_norm=False)
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.25, np.float32), jax.eval_shape(lambda: random_params(config))
    )
    nodes = facts.node_vectors(documents * np.array([[True], [True], [True], [False]]))
    edges = facts.tree.node_token, facts.tree.parents
    expected = start_from_vectors(params, config, LsaStart(), node_vectors=nodes, edges=edges, **given)
    assert_same(LsaStart().initial_params(params, config, facts), expected)
    assert facts.asked == ["latent", "latent", "shown"]


@pytest.mark.parametrize(("kinds", "asked"), [("dense", ["latent"]), ("terms", ["cosine weight", "stop terms"])])
def test_a_plan_begins_with_its_scales_and_a_decoder_with_nothing(kinds, asked):
    plan = PlanConfig(**{kinds: 5 if kinds == "terms" else True}, vocabulary=4 if kinds == "terms" else 0)
    config = tiny_t5(plan=plan, sentence=SentenceForm() if kinds == "dense" else None, decoder_vocab_size=8)
    shapes = jax.eval_shape(lambda: random_variables(config, jax.random.key(0), None)["params"])
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.25, np.float32), shapes)
    facts = Facts()
    found = LsaStart(lexical_scale=0.7, stop_word_weight=0.1).initial_params(params, config, facts)
    assert facts.asked == asked
    if kinds == "dense":
        assert found["plan"]["dense_scale"] == 10.0
        np.testing.assert_allclose(found["token_embedder"]["embedding"][20], 0.5 * 0.05)  # no text has it
        assert np.sqrt(np.mean(found["token_embedder"]["embedding"][3] ** 2)) == pytest.approx(0.5)
    else:
        assert found["plan"]["lexical_scale"] == np.float32(0.7)
        np.testing.assert_allclose(
            np.exp(found["plan"]["term_weights"]), np.exp(0.25) * np.array([1, 1, 0, 1]) + [0, 0, 0.1, 0], rtol=1e-5
        )
    assert not found["decoder"]["logits_dense"]["kernel"].any()
    np.testing.assert_allclose(found["decoder"]["layers_0"]["mlp"]["wo"]["kernel"], 0.25 * 0.05)


def test_starts_are_recognised_by_their_method():
    class Own:
        def initial_params(self, random_params, config, facts):
            return random_params

    assert all(isinstance(start, Start) for start in (LsaStart(), ItemStart(), Own()))
    assert not isinstance(T5(tiny_t5()), Start)
    assert [source_of(start) for start in (LsaStart(), Own())] == ["the words of the corpus", "Own"]
