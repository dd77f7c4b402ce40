"""Searching a run: against teacher forcing over all docids, and with everything a caller may ask for."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_run import OF_TOPIC, TOPICS, tiny_experiment, word

import genret_jax
from genret_jax.errors import InputError
from genret_jax.inference import Ranker, node_tree, search_tokens
from genret_jax.models.network import T5
from genret_jax.retriever import Retriever
from genret_jax.run import open_run, prepare
from genret_jax.training import make_mesh

QUERIES = [f"{word(topic, 14)} {word(topic, 15)}" for topic in (0, 3, 5, 7)]  # own words of document 1 of the topic
WIDE = 64  # more beams than docids


@pytest.fixture(scope="module")
def retriever(tiny_run):
    return Retriever.load(tiny_run)


@pytest.fixture(scope="module")
def wide(retriever):
    return retriever.search(QUERIES, k=WIDE, beam=WIDE)


def teacher_forced(run, params, queries, among_children=False):
    """Scores [q, n] of all documents by the training pass of the network, a query at a time."""
    encoded, model = run.encoded, T5(run.model)
    tokens = jnp.asarray(encoded.tokens)
    shifted = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    spelt = np.arange(tokens.shape[1])[None] < encoded.lengths[:, None]
    tree = node_tree(encoded)
    exists = np.ones((encoded.tree.num_nodes, run.model.output_vocab_size), bool)
    if among_children:
        exists = np.zeros_like(exists)
        exists[encoded.tree.parents[encoded.tree.child_nodes], encoded.tree.child_tokens] = True

    @jax.jit
    def of_query(query):
        every = jnp.broadcast_to(query[None], (len(tokens), query.shape[0]))
        logits = model.apply({"params": params}, every, shifted, jnp.asarray(encoded.prefix_nodes), tree)
        logits = jnp.where(exists[encoded.prefix_nodes], logits, -1e9)
        gained = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        return jnp.where(spelt, gained, 0.0).sum(axis=1)

    rows = np.stack([of_query(query) for query in jnp.asarray(run.encode(queries))])
    scores = np.full((len(queries), len(run.corpus)), -np.inf)
    for row, document in enumerate(encoded.document):
        scores[:, document] = np.maximum(scores[:, document], rows[:, row])
    return scores


def test_a_wide_search_is_exhaustive_scoring(retriever, wide):
    run = retriever.run
    expected = teacher_forced(run, run.params(), QUERIES)
    for query, results in enumerate(wide):
        assert [result.rank for result in results] == list(range(1, len(run.corpus) + 1))  # k beyond the documents
        documents = [run.corpus.document_index[result.doc_id] for result in results]
        assert sorted(documents) == list(range(len(run.corpus))), "each document once"
        scores = np.array([result.score for result in results])
        np.testing.assert_allclose(scores, expected[query, documents], atol=1e-4)
        assert (np.diff(scores) <= 0).all()
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4), "docids share all the probability"


def test_what_is_found_answers_the_query(retriever, wide):
    corpus, table = retriever.run.corpus, retriever.run.table
    for topic, results in zip((0, 3, 5, 7), wide, strict=True):
        assert results[0].doc_id == f"d{topic * OF_TOPIC + 1}"
        found = {result.doc_id for result in results[:3]}
        # The third may be another topic's: which documents share a cluster differs between versions of libraries.
        assert len(found & {f"d{topic * OF_TOPIC + i}" for i in range(OF_TOPIC)}) >= 2
        document = corpus.document_index[results[0].doc_id]
        assert (results[0].title, results[0].text) == (corpus.titles[document], corpus.texts[document])
        rows = np.flatnonzero(np.asarray(table.document) == document)
        assert results[0].docid in [table.docid(row) for row in rows]


def test_a_batch_gives_what_single_queries_give(retriever, wide):
    batch = retriever.search(QUERIES[:3], k=5)
    assert [len(results) for results in batch] == [5, 5, 5]
    for query, results in zip(QUERIES, batch, strict=False):
        alone = retriever.search(query, k=5)
        assert [r.doc_id for r in alone] == [r.doc_id for r in results]
        np.testing.assert_allclose([r.score for r in alone], [r.score for r in results], atol=1e-4)
    for narrow, all_of_them in zip(batch, wide, strict=False):
        assert narrow[0].doc_id == all_of_them[0].doc_id


def test_parts_of_a_batch_do_not_matter(retriever):
    ids, tokens = retriever.run.store.queries("test", retriever.run.sampler.input_length)
    assert len(ids) == 13
    whole = retriever.rank(tokens[:5], beam=20, batch_size=4, limit=7)
    assert whole.documents.shape == (5, 7)
    one = retriever.rank(tokens[4:5], beam=20, batch_size=4, limit=7)
    np.testing.assert_array_equal(whole.documents[4], one.documents[0])


def test_other_parameters_without_compiling_again(retriever):
    start = retriever.run.params("start")
    other = retriever.with_params(start)
    assert other.index is retriever.index
    after = retriever.search(QUERIES[0], k=3)
    programs = search_tokens._cache_size()
    before = other.search(QUERIES[0], k=3)
    assert search_tokens._cache_size() == programs
    assert before[0].score != after[0].score
    assert other.search(QUERIES[0], k=3) == before
    again = Retriever.load(retriever.run.folder, checkpoint="start").search(QUERIES[0], k=3)
    assert again == before, "the untrained network is the same every time"
    assert before[0].doc_id == "d1", "the start from the corpus answers already"


@pytest.mark.usefixtures("annotations_unchecked")
def test_searches_on_the_mesh_of_its_parameters(retriever, tiny_run):
    mesh = make_mesh(model_parallel=2)
    spread = Retriever.load(tiny_run, mesh=mesh)
    assert spread.index.columns.sharding.mesh == mesh
    expected, found = retriever.search(QUERIES, k=5), spread.search(QUERIES, k=5)
    assert [[result.doc_id for result in row] for row in found] == [[r.doc_id for r in row] for row in expected]
    scores = [[result.score for result in row] for row in expected]
    np.testing.assert_allclose([[result.score for result in row] for row in found], scores, rtol=1e-4)
    # Parameters that come from training on a mesh take the search there, and others take it back.
    moved = retriever.with_params(retriever.run.params("best", mesh))
    assert moved.search(QUERIES, k=5) == found
    assert moved.with_params(retriever.run.params("best")).search(QUERIES, k=5) == expected
    assert spread.search(QUERIES[0], k=3, forbid=[found[0][0].doc_id])[0].doc_id == found[0][1].doc_id


@pytest.mark.usefixtures("annotations_unchecked")
def test_checkpoints_by_name_and_step(retriever, tiny_run):
    last = Retriever.load(tiny_run, checkpoint="last").search(QUERIES[0], k=3)
    assert Retriever.load(tiny_run, checkpoint=30).search(QUERIES[0], k=3) == last
    with pytest.raises(InputError, match="no checkpoint 'newest'"):
        Retriever.load(tiny_run, checkpoint="newest")


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "query 1 ('') has no words"),
        (" \n", {}, "has no words"),
        ("?!", {}, "has no words"),
        (["ban", "—"], {}, "query 2 ('—') has no words"),
        ([], {}, "no queries to search"),
        ("ban", {"k": 5, "beam": 3}, "5 results of 3 beams"),
        ("ban", {"k": 0}, "k is 0"),
        ("ban", {"k": -1}, "k is -1"),
    ],
)
def test_what_cannot_be_searched(retriever, query, options, message):
    with pytest.raises(InputError) as error:
        retriever.search(query, **options)
    assert message in str(error.value)


def test_unknown_words_are_searched_all_the_same(retriever):
    assert len(retriever.search("日本語 xyzzy", k=3)) == 3


def test_the_package_offers_it(tiny_run):
    assert genret_jax.Retriever is Retriever
    with pytest.raises(InputError, match="no run here"):
        genret_jax.Retriever.load(tiny_run / "checkpoints")


def test_topics_have_words_of_their_own():
    """What the queries above rely on."""
    words = [{word(topic, number) for number in range(40)} for topic in range(TOPICS)]
    assert all(len(own) == 40 for own in words)
    assert len(set().union(*words)) == 40 * TOPICS


def test_opened_lazily(tiny_run):
    assert set(vars(open_run(tiny_run))) == {"folder", "experiment", "settings"}


def test_documents_to_choose_from(retriever, wide):
    """A filtered search is a search of the others: the wide ranking without what is left out, and nothing else."""
    ids = [f"d{number}" for number in range(3, 30, 3)]
    for query, everything in zip(QUERIES, wide, strict=True):
        chosen = retriever.search(query, k=20, beam=WIDE, allow=ids)
        assert [result.doc_id for result in chosen] == [r.doc_id for r in everything if r.doc_id in ids]
        left = retriever.search(query, k=WIDE, beam=WIDE, forbid=ids)
        assert [result.doc_id for result in left] == [r.doc_id for r in everything if r.doc_id not in ids]
    narrow = retriever.search(QUERIES, k=2, allow=ids, forbid=ids[1:])
    assert [[result.doc_id for result in results] for results in narrow] == [[ids[0]]] * 4


def test_each_query_with_documents_of_its_own(retriever):
    tokens = retriever.run.encode(QUERIES)
    allowed = np.zeros((4, len(retriever.run.corpus)), bool)
    for query in range(4):
        allowed[query, query * 3 : query * 3 + 2] = True
    ranked = retriever.rank(tokens, beam=5, batch_size=3, allowed=allowed)
    for query in range(4):
        assert sorted(document for document, _ in ranked.of(query)) == [query * 3, query * 3 + 1]


def test_a_document_that_is_not_there(retriever):
    with pytest.raises(InputError, match="no document 'elsewhere'"):
        retriever.search(QUERIES[0], allow=["d1", "elsewhere"])


def test_how_far_the_beam_is_from_exhaustive_search(retriever):
    tokens = retriever.run.encode(QUERIES)
    assert retriever.beside_exhaustive(tokens, beam=WIDE) == {"certified": 1.0, "found": 1.0}
    narrow = retriever.beside_exhaustive(tokens, beam=2)
    assert narrow["found"] >= narrow["certified"]


def test_an_adaptive_decoder_is_searched_with_as_it_was_trained(tiny_corpus, tmp_path):
    """Its vectors of all docids are computed before the search; on a mesh of devices too."""
    model = {"head": "vocabulary", "adaptive_layers": 2, "adaptive_width": 8, "encoder_final_norm": True}
    experiment = tiny_experiment(tiny_corpus, model=model, consistency=0.15)
    with pytest.warns(UserWarning, match="neither title nor text"):
        run = prepare(experiment, tmp_path / "run", log=lambda line: None)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.1 * random.standard_normal(leaf.shape), np.float32), run.start_params()
    )
    found = Retriever(run, params).search(QUERIES, k=WIDE, beam=WIDE)
    expected = teacher_forced(run, params, QUERIES, among_children=True)
    for query, results in enumerate(found):
        assert len({result.doc_id for result in results}) == len(run.corpus)
        scores = [expected[query, run.corpus.document_index[result.doc_id]] for result in results]
        np.testing.assert_allclose([result.score for result in results], scores, atol=2e-3)
    mesh = make_mesh(model_parallel=2)
    places = jax.tree.map(lambda shape: shape.sharding, run.param_shapes(mesh))
    divided = Retriever(run, jax.device_put(params, places)).search(QUERIES, k=10, beam=WIDE)
    assert [[r.doc_id for r in results] for results in divided] == [[r.doc_id for r in rs[:10]] for rs in found]


def test_a_process_forked_after_loading_is_told_instead_of_hanging(retriever):
    """Not in a real fork, which the threads of this process might not survive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranker, "_loaded_by", os.getpid() + 1)
        with pytest.raises(InputError, match="forked after a model was loaded"):
            retriever.search(QUERIES[0], k=1)
    assert retriever.search(QUERIES[0], k=1)
