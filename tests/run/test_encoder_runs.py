"""Runs that begin with a pretrained encoder: prepared, trained, searched and opened again."""

import dataclasses
import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.encoder_folders import copy_encoder
from support.encoder_runs import DOCIDS
from support.encoder_runs import encoder_experiment as experiment
from support.growing import grown_by_two
from support.tiny_run import tiny_topics, write_tiny_corpus

from genret_jax import Retriever
from genret_jax.baselines.dual_encoder import DualEncoder, DualEncoderConfig
from genret_jax.baselines.vector_search import has_faiss
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.text.lexical import LexicalDocuments, Settings, lexical_documents
from genret_jax.docids import LearnedDocids
from genret_jax.errors import InputError
from genret_jax.inference import Ranker
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoder_start import EncoderStart
from genret_jax.models.network import T5
from genret_jax.models.plan_start import codewords
from genret_jax.problems import Measured, encoder_parts
from genret_jax.problems.encoder_parts import EncoderParts
from genret_jax.run import evaluate_runs, open_run, prepare_only, train_run
from genret_jax.storage import MANIFEST, read_json, write_json
from genret_jax.training import AdamW, Constant, restore_params
from genret_jax.training.encoded_pool import pool_fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning", "ignore:.*vectors are zero")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tiny_corpus(tmp_path_factory.mktemp("encoder") / "corpus")


@pytest.fixture(scope="module")
def planned(corpus, tmp_path_factory):
    """A run with every kind of plan and a decoder."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    plan = PlanConfig(codes=True, dense=True, terms=8)
    return train_run(experiment(corpus, plan=plan, layers=1), folder)


def test_a_trained_run_is_searched_from_its_folder_alone(planned, tmp_path):
    moved = shutil.copytree(planned.folder, tmp_path / "elsewhere")
    found = Retriever.load(moved).search(planned.corpus.document_text(3), k=5)
    assert found[0].doc_id == "d3"
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_training_resumes_and_leaves_a_frozen_encoder_as_it_was(planned):
    longer = dataclasses.replace(planned.experiment, trainer=dataclasses.replace(planned.experiment.trainer, steps=6))
    run = train_run(longer, planned.folder)
    start, end = run.params("start"), run.params("last")
    jax.tree.map(np.testing.assert_array_equal, start["encoder"], end["encoder"])
    assert np.abs(end["plan"]["codes"] - start["plan"]["codes"]).max() > 0


def test_vectors_in_int8_train_and_search_like_those_in_bfloat16(corpus, tmp_path):
    found = {}
    for dtype in ("bfloat16", "int8"):
        plan = PlanConfig(dense=True, dense_dtype=dtype)
        run = train_run(experiment(corpus, plan=plan, rates=(), model={"query_width": 8}), tmp_path / dtype)
        tables, requests = run.plan_tables, run.some_requests("test", 50)
        ranker = Ranker(run.model, run.encoded, run.params("last"), tables)
        found[dtype] = run.params("last"), tables, ranker.rank(requests.tokens, beam=41)
    tables = found["int8"][1]
    assert (tables.vectors.dtype, tables.scales.dtype) == (np.int8, np.float32)
    rows, width = tables.vectors.shape
    assert found["bfloat16"][1].num_bytes - tables.num_bytes == rows * (2 * width - width - 4)
    for one, other in zip(*(jax.tree.leaves(part[0]) for part in found.values()), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(one).max() + 1e-3)
    exact, rounded = (part[2] for part in found.values())
    order = [np.argsort(part.documents, axis=1) for part in (exact, rounded)]
    scores = [np.take_along_axis(part.scores, by, axis=1) for part, by in zip((exact, rounded), order, strict=True)]
    np.testing.assert_allclose(scores[1], scores[0], atol=0.1)  # of inner products times 10


def test_the_untrained_plan_is_bm25_beside_the_encoder(corpus, tmp_path):
    start = EncoderStart(lexical_scale=0.5)
    run = prepare_only(experiment(corpus, plan=PlanConfig(dense=True, terms=8), start=start), tmp_path / "run")[0]
    ranker = Ranker(run.model, run.encoded, run.params("start"), run.plan_tables)
    requests = run.some_requests("test", 50)
    found = ranker.rank(requests.tokens, beam=8)
    texts = [run.corpus.queries[query] for query in requests.split.qrels]
    vectors = run.parts.encoder.vectors(texts, "query")
    store, settings = run.store, run.parts.settings
    lexical: LexicalDocuments = lexical_documents(store.term_counts(), *store.training_queries(terms=True), settings)
    terms = store.term_rows(texts, 8)
    counts = np.stack([np.bincount(row[row > 0], minlength=store.num_terms) for row in terms])
    scores = 0.5 * (counts @ lexical.weights.T.toarray() + lexical.bias)
    factor = np.maximum(0.5 * counts @ lexical.weights.max(axis=0).toarray().ravel(), 0.5) * settings.cosine_weight
    rows = np.asarray(run.parts.plan_documents(run.model.plan, store).vectors)
    scores = scores + factor[:, None] * vectors @ rows.T
    expected = np.argsort(-scores, axis=1)[:, :8]
    for row in range(len(texts)):
        np.testing.assert_allclose(scores[row, found.documents[row]], scores[row, expected[row]], atol=0.05)


@pytest.mark.parametrize("queries", ["with training queries", "without"])
def test_the_sum_of_both_ranks_as_the_untrained_network_does(queries, tmp_path):
    """It is computed without the network, so that each of the two checks the other."""
    topics = tiny_topics()
    texts = tuple(f"{text} What is the {text.split()[0]}?" if text else "" for text in topics.texts)
    asked = {query: f"what is the {text}" for query, text in topics.queries.items()}
    qrels = topics.qrels if queries == "with training queries" else {"test": topics.qrels["test"]}
    corpus = write_tiny_corpus(
        tmp_path / "corpus", dataclasses.replace(topics, texts=texts, queries=asked, qrels=qrels)
    )
    given = experiment(corpus, plan=PlanConfig(dense=True, terms=8))
    whole = dataclasses.replace(given, sampler=SamplerConfig(input_length=32))  # no query is cut
    run = prepare_only(whole, tmp_path / "run")[0]
    requests = run.requests("test", Measured())
    words, *_, both = run.baselines_of_run("run", requests, 41, Measured())
    assert [row.system.name for row in (words, both)] == ["run, words alone", "run, sum of both"]
    assert ("stop words" in words.system.description) == (queries == "without")
    found = Ranker(run.model, run.encoded, run.params("start"), run.plan_tables).rank(requests.tokens, beam=8)
    for query, documents in zip(requests.split.qrels, found.documents, strict=True):
        ranking = both.run[query]
        assert len(ranking) == len(run.corpus)
        scores = dict(ranking)
        network = [scores[run.corpus.doc_ids[document]] for document in documents]
        np.testing.assert_allclose(network, [score for _, score in ranking[:8]], atol=0.1)  # bfloat16 of the network


@pytest.mark.parametrize("encoder", ["bert", "mpnet"])
def test_without_a_plan_the_untrained_search_adds_inner_products_of_codewords(corpus, tmp_path, encoder):
    """The additive quantised retriever: state = the query's vector, output rows = codewords, silent branches."""
    start = EncoderStart(code_scale=7.0, residual_scale=0.0)
    run = prepare_only(experiment(corpus, layers=1, start=start, encoder=encoder), tmp_path / "run")[0]
    ranker = Ranker(run.model, run.encoded, run.params("start"))
    requests = run.some_requests("test", 50)
    found = ranker.rank(requests.tokens, beam=64)
    texts = [run.corpus.queries[query] for query in requests.split.qrels]
    vectors = run.parts.encoder.vectors(texts, "query")
    tokens = run.encoded.tokens
    known, shown = np.asarray(run.parts.document_vectors, np.float32), run.facts().shown()
    rows = codewords(tokens[shown], known[shown], run.model.output_vocab_size)
    exact = 7.0 * vectors @ np.where((tokens > 0)[..., None], rows[tokens], 0).sum(axis=1).T
    for query, documents in enumerate(found.documents):
        kept = documents >= 0
        assert kept.sum() == len(run.corpus)
        ranked = exact[query, documents[kept]]
        assert (np.diff(ranked) < 1e-3).all()
        # The scores differ from the sums by the normalisers of the steps, which all docids share.
        shift = found.scores[query, kept] - ranked
        np.testing.assert_allclose(shift, shift[0], atol=2e-3)


def test_a_pool_of_encoded_examples_trains_like_its_texts(corpus, tmp_path):
    plan = PlanConfig(dense=True, terms=8)
    pooled = train_run(experiment(corpus, plan=plan, pool=64), tmp_path / "pooled")
    task = pooled.task()
    batch = task.batch(1)
    assert batch["encoder_states"].dtype == np.float16
    key, params = jax.random.key(0), jax.device_put(pooled.params("start"))
    batch = jax.device_put(batch)
    with_states = task.loss(params, {**batch, **task.arrays}, key)[0]
    without = {name: array for name, array in batch.items() if name != "encoder_states"}
    np.testing.assert_allclose(with_states, task.loss(params, {**without, **task.arrays}, key)[0], rtol=1e-3)
    seen = [tuple(row) for step in range(4) for row in task.batch(step)["encoder_input_tokens"]]
    again = [tuple(row) for step in range(4, 8) for row in task.batch(step)["encoder_input_tokens"]]
    assert sorted(seen) == sorted(again)
    assert seen != again


def test_a_pool_of_other_texts_is_made_again(corpus, tmp_path):
    run = prepare_only(experiment(corpus, plan=PlanConfig(dense=True), pool=64), tmp_path / "run")[0]
    first = run.task().batch(0)["encoder_states"]
    manifest = run.folder / "pool" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"made_of": "', '"made_of": "0'))
    np.testing.assert_array_equal(run.task().batch(0)["encoder_states"], first)
    assert '"made_of": "0' not in manifest.read_text()


def test_a_pool_of_another_size_or_form_of_texts_is_made_again(corpus, tmp_path):
    run = prepare_only(experiment(corpus, plan=PlanConfig(dense=True), pool=64), tmp_path / "run")[0]
    sampler = Sampler(run.store, run.sampler, seed=run.seed, batch_size=16)

    def stored(count, model=run.model, name="encoder_input_tokens"):
        parts = EncoderParts(run.folder, dataclasses.replace(run.experiment, pool=count))
        parts.pool(sampler, model)
        return np.load(run.folder / "pool" / f"{name}.npy")

    larger, smaller = stored(64), stored(32)
    assert (len(larger), len(smaller)) == (64, 32)
    np.testing.assert_array_equal(smaller, larger[:32])
    form = dataclasses.replace(run.model.sentence, first_tokens=())
    states = stored(32, name="encoder_states")
    shorter = stored(32, dataclasses.replace(run.model, sentence=form), name="encoder_states")
    assert shorter.shape[1] == states.shape[1] - len(run.model.sentence.first_tokens)


def test_a_text_that_is_drawn_again_is_encoded_once(corpus, tmp_path):
    sampler = SamplerConfig(indexing_rate=0.0, pseudo_query_rate=0.0, word_drop=0.0, query_word_drop=0.0)
    given = dataclasses.replace(experiment(corpus, plan=PlanConfig(dense=True), pool=640), sampler=sampler)
    run = prepare_only(given, tmp_path / "run")[0]
    drawn = Sampler(run.store, run.sampler, seed=run.seed, batch_size=16)
    pool = run.parts.pool(drawn, run.model)
    states = np.load(run.folder / "pool" / "encoder_states.npy")
    inputs = {tuple(row) for step in range(40) for row in drawn.batch(step)["encoder_input_tokens"]}
    assert len(states) == len(inputs) < 100
    encode = functools.partial(T5(run.model).apply, {"params": run.params("start")}, method=T5.encode)
    for step in (0, 7, 45):
        batch = pool.batch(step)
        expected = encode(jnp.asarray(batch["encoder_input_tokens"]))
        np.testing.assert_allclose(batch["encoder_states"], expected, atol=2e-3)


def test_a_pool_does_not_depend_on_what_the_encoder_does_not_read(corpus, tmp_path):
    run = prepare_only(experiment(corpus, plan=PlanConfig(dense=True), pool=64), tmp_path / "run")[0]
    sampler = Sampler(run.store, run.sampler, seed=run.seed, batch_size=16)
    params, model = run.params("start"), run.model
    first = pool_fingerprint(sampler, 64, params, model)
    assert pool_fingerprint(sampler, 64, params, dataclasses.replace(model, query_width=8)) == first
    changed = dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, activation="relu"))
    assert pool_fingerprint(sampler, 64, params, changed) != first
    other = params | {"encoder": jax.tree.map(lambda leaf: leaf + 1, params["encoder"])}
    assert pool_fingerprint(sampler, 64, other, model) != first


def test_a_pool_needs_a_frozen_encoder_and_little_space(corpus, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"Experiment\.pool is 9; expected 0 unless TrainerConfig\.learning_rates"):
        experiment(corpus, plan=PlanConfig(dense=True), pool=9, rates=())
    monkeypatch.setattr("genret_jax.training.encoded_pool.MOST_BYTES", 1 << 14)
    run = prepare_only(experiment(corpus, plan=PlanConfig(dense=True), pool=64), tmp_path / "run")[0]
    with pytest.raises(InputError, match=r"encoder states of 64 examples take .* GiB"):
        run.task()


def test_the_upper_layers_alone_are_trained(corpus, tmp_path):
    rates = (("encoder", 0.0), ("encoder/layers_1", 0.5))
    run = train_run(experiment(corpus, plan=PlanConfig(dense=True), rates=rates, steps=2), tmp_path / "run")
    start, end = run.params("start")["encoder"], run.params("last")["encoder"]
    assert np.abs(end["layers_1"]["wi"]["map"]["kernel"] - start["layers_1"]["wi"]["map"]["kernel"]).max() > 0
    jax.tree.map(np.testing.assert_array_equal, start["layers_0"], end["layers_0"])


def test_an_example_is_trained_without_what_its_document_knows_from_it(planned):
    """The change of a target's score is that of a plan made without the query."""
    store, parts = planned.store, planned.parts
    left_out = parts.left_out(planned.model.plan, store)
    counts, queries, answers = parts._counts(store)
    document, query = (index[5] for index in answers.nonzero())
    terms = store.term_rows([planned.corpus.queries[store.query_ids[int(query)]]], 8)
    found = left_out.of(np.array([query]), np.array([document]), terms)
    fewer = answers.tolil()
    fewer[document, query] = 0
    settings = parts.settings
    with_it, without = (lexical_documents(counts, queries, a, settings) for a in (answers, fewer.tocsr()))
    change = (without.weights - with_it.weights)[document].toarray().ravel()
    np.testing.assert_allclose(found["left_out_terms"][0], np.where(terms[0] > 0, change[terms[0]], 0), atol=2e-3)
    assert found["left_out_bias"][0] == without.bias[document]
    nobody = left_out.of(np.array([-1]), np.array([document]), terms)
    assert not nobody["left_out_terms"].any()


def test_encoders_that_cannot_begin_a_network(corpus, tmp_path):
    with pytest.raises(InputError, match="it is a T5, or has a Dense module"):
        prepare_only(experiment(corpus, plan=PlanConfig(dense=True), encoder="t5"), tmp_path / "t5")
    broken = copy_encoder("bert", tmp_path / "broken")
    (broken / "1_Pooling" / "config.json").unlink()
    given = dataclasses.replace(experiment(corpus, plan=PlanConfig(dense=True)), encoder=str(broken))
    with pytest.raises(InputError, match="1_Pooling"):
        prepare_only(given, tmp_path / "run")
    long = experiment(corpus, plan=PlanConfig(dense=True))
    long = dataclasses.replace(long, sampler=SamplerConfig(input_length=40))
    with pytest.raises(InputError, match=r"SamplerConfig\.input_length is 40; expected at most 3\d: the encoder"):
        prepare_only(long, tmp_path / "long")
    missing = dataclasses.replace(given, encoder=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="this is not a folder"):
        prepare_only(missing, tmp_path / "other")


def test_a_run_is_opened_again_with_its_own_encoder(planned):
    run = open_run(planned.folder)
    assert run.model.encoder == planned.model.encoder
    assert run.experiment.start == planned.experiment.start


def test_a_report_shows_what_the_plan_is_made_of(planned, tmp_path):
    report = evaluate_runs([planned.folder], tmp_path / "report")
    found = {m.system: m.metrics["mrr@10"].mean for m in report.measurements if m.split == "test"}
    name = planned.folder.name
    alone = [f"{name}, words alone", f"{name}, encoder alone", f"{name}, encoder alone, HNSW", f"{name}, sum of both"]
    if not has_faiss():
        alone.remove(f"{name}, encoder alone, HNSW")
    assert [*found][-len(alone) - 2 :] == [*alone, f"{name}, untrained", name]
    assert found[f"{name}, words alone"] > 0.5
    baselines = {system: value for system, value in found.items() if system not in (f"{name}, untrained", name)}
    assert found[report.reference] == max(baselines.values())
    systems = {system.name: system for system in report.systems}
    if has_faiss():
        hnsw = systems[f"{name}, encoder alone, HNSW"]
        assert hnsw.details["efSearch"] == 64
        assert hnsw.details["share of the exact 10 best found"] > 0.9
    details = next(system.details for system in report.systems if system.name == name)
    assert details["beside exhaustive search (13 queries)"].startswith("100.0% of the true best 10 found")
    known = {system: row.details["bytes per document"] for system, row in systems.items()}
    width = planned.model.d_model
    assert known[f"{name}, encoder alone"] == 2 * width  # float16
    assert known[f"{name}, encoder alone, HNSW"] > 4 * width
    both = known[f"{name}, words alone"] + known[f"{name}, encoder alone"]
    assert known[f"{name}, sum of both"] == pytest.approx(both, rel=0.02)  # other weights, as they are tuned together
    parts = systems[name].details["bytes per document by part"]
    assert list(parts) == ["docid index", "plan"]
    assert parts["plan"] == pytest.approx(planned.plan_tables.num_bytes / 41, abs=0.1)
    assert known[name] == pytest.approx(sum(parts.values()), abs=0.15)  # of figures that are rounded
    assert systems[f"{name}, words alone"].details["parameters"] == 0
    assert 0 < systems[f"{name}, encoder alone"].details["parameters"] < systems[name].details["parameters"]
    about = "residual docids, plan of words, vectors and codes, 1 decoder layer, checkpoint 'best'"
    assert systems[name].description == about


@pytest.mark.parametrize("encoder", ["bert", "mpnet"])
def test_a_dual_encoder_begins_as_the_pretrained_one_with_its_prompts(encoder, corpus, tmp_path):
    prompted = copy_encoder(encoder, tmp_path / "encoder")
    prompts = {"query": "query: ", "passage": "passage: "}
    write_json(prompted / "config_sentence_transformers.json", {"prompts": prompts})
    given = experiment(corpus, plan=PlanConfig(dense=True, terms=8))
    run = prepare_only(dataclasses.replace(given, encoder=str(prompted)), tmp_path / "run")[0]
    form = run.parts.pretrained.form("passage")
    room = run.parts.pretrained.max_length - len(form.first_tokens) - 1
    config = DualEncoderConfig(network=run.model, query_length=12, document_length=room, passage_form=form)
    found = DualEncoder.of_store(run.store, config, run.params("start"))
    texts = dict(zip(run.corpus.doc_ids, (run.corpus.document_text(i) for i in range(len(run.corpus))), strict=True))
    expected = run.parts.pretrained.vectors([texts[document] for document in found.doc_ids], "passage")
    np.testing.assert_allclose(found.vectors, expected, atol=2e-3)  # float32 in another order of padding
    queries = ["a moon", "bread"]
    np.testing.assert_allclose(found.encode_queries(queries), run.parts.pretrained.vectors(queries, "query"), atol=2e-3)
    assert np.abs(expected - run.parts.pretrained.vectors([*texts.values()])[: len(expected)]).max() > 0.01


def test_a_report_has_a_dual_encoder_that_was_trained_from_the_pretrained_one(planned, tmp_path):
    report = evaluate_runs([planned.folder], tmp_path / "report", measured=Measured(bm25=False, dual_encoder=True))
    name, names = planned.folder.name, [system.name for system in report.systems]
    assert {f"{name}, sum of both", f"{name}, dual encoder", f"{name}, dual encoder, HNSW"} <= {*names}
    trained = restore_params(planned.folder / "dual_encoder", "last")
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trained["encoder"], planned.params("start")["encoder"])
    assert 0 < max(jax.tree.leaves(moved)) < 1e-3


def test_a_run_that_was_not_trained_has_no_dual_encoder(corpus, tmp_path):
    run = train_run(experiment(corpus, plan=PlanConfig(dense=True), steps=0), tmp_path / "run")
    with pytest.raises(InputError, match=r"a run that was not trained; expected at least one step, .*--dual-encoder"):
        evaluate_runs([run.folder], tmp_path / "report", measured=Measured(dual_encoder=True))


def test_rows_beside_a_run_choose_nothing_again(planned, tmp_path, monkeypatch):
    """Folders of before do not have the settings of words alone: these are chosen again, and are the same."""
    old = Path(shutil.copytree(planned.folder, tmp_path / "old"))
    manifest = read_json(old / "lexical" / MANIFEST)
    assert manifest["alone"].keys() == manifest["settings"].keys()
    kept = manifest.pop("alone")
    write_json(old / "lexical" / MANIFEST, manifest)
    chosen, choose = [], encoder_parts.choose_settings
    monkeypatch.setattr(
        encoder_parts, "choose_settings", lambda *given, seed: chosen.append(1) or choose(*given, seed=seed)
    )
    monkeypatch.setattr(encoder_parts, "choose_beside_vectors", None)
    requests = planned.requests("test", Measured())
    rows = planned.baselines_of_run("run", requests, 10, Measured())
    assert not chosen
    again = open_run(old).baselines_of_run("run", requests, 10, Measured())
    assert chosen == [1]
    assert [row.run for row in again] == [row.run for row in rows]
    assert Settings(**kept).describe() in rows[0].system.description


def test_the_start_is_kept_where_training_finds_nothing_better(corpus, tmp_path):
    given = experiment(corpus, plan=PlanConfig(dense=True, terms=8), hold_out=0.3)
    spoiling = dataclasses.replace(
        given.trainer,
        optimizer=AdamW(learning_rate=Constant(rate=3.0)),
        clip_norm=None,
        evaluate_at_start=True,
        best_metric="validation/mrr@10",
    )
    run = train_run(dataclasses.replace(given, trainer=spoiling), tmp_path / "run")
    jax.tree.map(np.testing.assert_allclose, run.params("best"), run.params("start"))


def test_seeds_share_what_the_encoder_has_computed(corpus, tmp_path, monkeypatch):
    given = experiment(corpus, plan=PlanConfig(dense=True, terms=8), steps=1)
    first, second = prepare_only(given, tmp_path / "runs", seeds=[0, 1])
    for part in ("vectors", "query_vectors", "lexical"):
        stored = [sorted((run.folder / part).glob("*.npy")) for run in (first, second)]
        for one, other in zip(*stored, strict=True):
            np.testing.assert_array_equal(np.load(one), np.load(other))
    assert second.task() is not None


def test_documents_that_come_later_are_found_by_what_they_say(planned):
    retriever = Retriever(planned, planned.params("last"))
    grown = grown_by_two(retriever)
    assert len(grown.search("ban", k=43, beam=64)) == 43
    np.testing.assert_array_equal(grown.run.table.padded()[:-2], planned.table.padded())
    corpus = grown.run.corpus
    together = retriever.with_documents(corpus.doc_ids[-2:], corpus.texts[-2:]).run
    for one, other in zip(*map(jax.tree.leaves, (grown.run.plan_tables, together.plan_tables)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert grown.search(planned.corpus.document_text(3), k=1)[0].doc_id == "d3"
    assert len(planned.corpus) == 41  # the run itself has not changed


def test_codebooks_and_codewords_know_nothing_of_documents_that_training_does_not_show(corpus, tmp_path):
    sampler = SamplerConfig(input_length=12, unseen_split="test")
    given = dataclasses.replace(experiment(corpus, plan=PlanConfig(codes=True)), sampler=sampler)
    run = prepare_only(given, tmp_path / "run")[0]
    vectors, shown = run.parts.document_vectors.astype(np.float32), ~run.later
    quantiser, table = DOCIDS.fit_and_assign(np.array(run.corpus.doc_ids)[shown].tolist(), vectors[shown], 0, "")
    assert run.quantiser.fingerprint == quantiser.fingerprint
    np.testing.assert_array_equal(run.table.padded()[shown, :3], table.padded()[:, :3])
    np.testing.assert_array_equal(run.table.padded()[~shown, :3], quantiser.codes(vectors[~shown]))
    with_text = run.facts().shown()
    expected = codewords(run.encoded.tokens[with_text], vectors[with_text], run.model.output_vocab_size)
    np.testing.assert_allclose(run.start_params()["plan"]["codes"].T, expected, atol=1e-5)


def test_docids_are_learned_on_a_pretrained_encoder(corpus, tmp_path):
    docids = LearnedDocids(levels=2, codebook=4, steps=40, alike=4, document_length=12)
    run = train_run(dataclasses.replace(experiment(corpus, layers=1), docids=docids), tmp_path / "run")
    assert run.table.strategy["name"] == "learned"
    assert run.docid_model.books.config.encoder == run.model.encoder
    known = run.corpus.document_text(7)
    grown = Retriever.load(run.folder).with_documents(["copy"], [known])
    codes = grown.run.table.padded()
    np.testing.assert_array_equal(codes[-1, :2], run.docid_model.codes(run.store.document_inputs(12))[7])
    assert "copy" in [found.doc_id for found in grown.search(known, k=42, beam=64)]
    assert len({tuple(row) for row in codes.tolist()}) == 42


def test_a_decoder_that_knows_prefixes_begins_as_the_one_that_does_not(corpus, tmp_path):
    plain = experiment(corpus, layers=1)
    adaptive = dataclasses.replace(plain.model, adaptive_layers=1, adaptive_width=4, dropout_rate=0.1)
    aware = dataclasses.replace(plain, model=adaptive, consistency=0.15)
    runs = [train_run(given, tmp_path / name) for name, given in (("plain", plain), ("aware", aware))]
    tokens = jnp.asarray(runs[0].encode([runs[0].corpus.document_text(3)]))
    docid = jnp.asarray(runs[0].encoded.tokens[[3]])
    logits = [T5(run.model).apply({"params": run.params("start")}, tokens, docid) for run in runs]
    np.testing.assert_allclose(*logits, atol=1e-5)
    kernel = runs[1].params("last")["decoder"]["adaptive"]["kernel"]
    assert np.abs(np.asarray(kernel)).max() > 0
    assert len(Retriever.load(runs[1].folder).search("ban", k=41, beam=64)) == 41
