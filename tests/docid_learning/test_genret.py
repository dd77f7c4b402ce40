"""GenRet end to end: docids learned while a run is prepared, gone on with, kept, and given to new documents."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
from support.growing import grown_by_two
from support.tiny_model import tiny_t5
from support.tiny_run import (
    EMPTY,
    learned_experiment,
    tiny_topics,
    write_tiny_corpus,
)

from genret_jax.cli import main
from genret_jax.config.experiment import PretrainedStart, VocabularyConfig
from genret_jax.data.examples.sampler import INDEXING, SamplerConfig
from genret_jax.docid_learning import learner as learning
from genret_jax.docid_learning.model import DocidModel
from genret_jax.docids import LearnedDocids
from genret_jax.docids.diagnostics import describe
from genret_jax.errors import CollapsedError, InputError
from genret_jax.models.config import PlanConfig
from genret_jax.models.convert.huggingface import save_safetensors
from genret_jax.models.network import random_variables
from genret_jax.problems import Measured
from genret_jax.retriever import Retriever
from genret_jax.run import evaluate_runs, open_run, prepare, train_run, train_seeds
from genret_jax.storage import load_arrays, save_arrays
from genret_jax.training.planned_docids import docid_numbers

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")


ONE_LEVEL = LearnedDocids(levels=1, codebook=4, steps=20, alike=4, document_length=12)


def prepared(experiment, folder):
    lines = []
    return prepare(experiment, folder, log=lines.append), lines


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """A prepared run of learned docids with what it said; not to be changed."""
    return prepared(learned_experiment(tiny_corpus), tmp_path_factory.mktemp("genret") / "run")


def test_every_document_has_a_docid_of_its_own(whole, tiny_corpus):
    run, lines = whole
    codes = run.table.padded()
    assert codes.shape == (41, 3)
    assert len(np.unique(codes, axis=0)) == 41
    assert run.table.level_sizes[:2] == (4, 4)
    assert not (run.folder / "learning").exists()
    assert next(line for line in lines if "codes used" in line).startswith("docids      level 1: 4 of 4 codes used")


def test_the_course_of_the_codebooks_is_kept_with_the_docids(whole):
    strategy = describe(whole[0].table)["strategy"]
    assert strategy["name"] == "learned"
    assert [(at["level"], at["phase"]) for at in strategy["course"]] == [
        (level, phase) for level in (1, 2) for phase in ("round 1", "round 2", "fixed")
    ]
    for at in strategy["course"]:
        assert 1 <= at["perplexity"] <= at["used"] <= at["size"] == 4
        assert at["rows"] == 40  # one has no text
    prefixes = [at["prefixes"] for at in strategy["course"] if at["phase"] == "fixed"]
    assert 4 == prefixes[0] < prefixes[1]


def test_the_course_is_shown_line_by_line(whole, capsys):
    assert main(["docids", "inspect", str(whole[0].folder / "docids")]) == 0
    lines = capsys.readouterr().out.splitlines()
    begin = next(row for row, line in enumerate(lines) if line.startswith("while they were learned"))
    shown = [(line.split()[0], line[-7:].strip()) for line in lines[begin + 1 : begin + 7]]
    assert shown == [(level, phase) for level in "01" for phase in ("round 1", "round 2", "fixed")]
    assert max(map(len, lines)) < 250  # and not as one value of the strategy


def test_reports_have_the_course_of_the_codebooks(by_nodes, tmp_path):
    report = evaluate_runs([by_nodes.folder], tmp_path / "report", measured=Measured(bm25=False, untrained=False))
    details = report.systems[0].details
    course = [at for at in by_nodes.table.strategy["course"] if at["level"] == 2]
    told = ", ".join(f"{at['perplexity']:.1f}" for at in course)
    assert len(course) == 3
    assert details["codebook 2"].startswith(f"perplexity {told} of 4 while it was learned, ")
    assert details["codebook 2"].endswith(f"{course[-1]['prefixes']} docids of {course[-1]['rows']} documents so far")
    assert details["codebook 1"] in (tmp_path / "report" / "report.md").read_text()


def test_the_run_starts_as_the_network_that_learned_the_docids(whole):
    run = whole[0]
    tokeniser, start = run.docid_model, run.start_params()
    assert isinstance(tokeniser, DocidModel)
    first, number = tokeniser.books.token_range(1)
    end = first + number
    np.testing.assert_array_equal(
        start["token_embedder"]["embedding"][:end], tokeniser.params["token_embedder"]["embedding"][:end]
    )
    # ... and so knows already what to answer, but for the code that separates.
    retriever = Retriever(run, start)
    corpus = run.corpus
    queries = [corpus.queries[query] for query in corpus.qrels["train"]]
    found = retriever.search(queries, k=1, beam=10)
    wanted = [next(iter(grades)) for grades in corpus.qrels["train"].values()]
    table = {doc_id: run.table.docid(row) for row, doc_id in enumerate(run.table.doc_ids)}
    right = np.mean([best[0].docid[0] == table[doc_id][0] for best, doc_id in zip(found, wanted, strict=True)])
    assert right > 0.6  # one in four by chance


def test_the_tokeniser_writes_the_docids_again(whole):
    run = whole[0]
    texts = [run.corpus.document_text(index) for index in range(40)]
    written = run.docid_model.codes(run.vocabulary.encode_rows(texts, 12, append_eos=False))
    agree = (written == run.table.padded()[:40, :2]).all(1).mean()
    assert agree > 0.8  # codes are fixed when their level is done, and the network is trained on


def test_new_documents_get_docids_and_are_found(whole):
    run = whole[0]
    known = run.corpus.document_text(7)
    retriever = Retriever(run, run.start_params())
    grown = retriever.with_documents(["copy", "other"], [known, run.corpus.texts[20]], titles=["", "Other"])
    codes = grown.run.table.padded()
    texts = [known, f"Other. {run.corpus.texts[20]}"]
    tokens = run.vocabulary.encode_rows(texts, 12, append_eos=False)
    np.testing.assert_array_equal(codes[-2:, :2], run.docid_model.codes(tokens))
    np.testing.assert_array_equal(codes[:-2], run.table.padded())
    found = {result.doc_id: result for result in grown.search(known, k=40, beam=43)}
    assert found["copy"].docid == grown.run.table.docid(41)
    assert (found["other"].title, found["other"].text) == ("Other", run.corpus.texts[20])
    assert len(run.corpus) == 41  # the run itself has not changed
    with pytest.raises(InputError, match="document id 'd3' twice"):
        retriever.with_documents(["d3"], ["text"])
    with pytest.raises(InputError, match="1 texts for 2 documents"):
        retriever.with_documents(["a", "b"], ["text"])


@pytest.fixture(scope="module")
def by_nodes(tiny_corpus, tmp_path_factory):
    """A trained run whose output layer has a vector for each node, with documents that training is not shown."""
    model = {"head": "prefix", "d_model": 64, "d_kv": 32}  # as many dimensions as the texts need
    sampler = SamplerConfig(unseen_split="test")
    folder = tmp_path_factory.mktemp("by_nodes") / "run"
    experiment = learned_experiment(tiny_corpus, model=model, sampler=sampler, trainer={"steps": 30})
    return train_run(experiment, folder)


def test_training_leaves_the_nodes_of_documents_that_are_not_shown_alone(by_nodes):
    """They keep what their texts say; training would otherwise learn that they never come."""
    before, after = (by_nodes.params(which)["decoder"]["prefix_head"] for which in ("start", "last"))
    encoded, later = by_nodes.encoded, by_nodes.later
    assert 10 < later.sum() < 40
    moved = np.any(np.asarray(before["output_nodes"]) != np.asarray(after["output_nodes"]), axis=1)
    assert moved[_nodes_of(encoded, ~later)].mean() > 0.5  # an only child is not decided by its vector
    hidden = np.setdiff1d(_nodes_of(encoded, later), _nodes_of(encoded, ~later))
    assert len(hidden) > 10
    assert not moved[hidden].any()
    assert np.all(np.any(np.asarray(after["output_nodes"])[hidden] != 0, axis=1))
    texts = [by_nodes.corpus.document_text(row) for row in np.flatnonzero(later).tolist()]
    found = Retriever(by_nodes, by_nodes.params("last")).search(texts, k=1, beam=20)
    names = np.array(by_nodes.corpus.doc_ids)[later]
    assert np.mean([best[0].doc_id == name for best, name in zip(found, names, strict=True)]) > 0.7  # 1 in 41 by chance


def _nodes_of(encoded, documents):
    """Return the nodes below the root that some documents pass."""
    tree = encoded.tree_of(documents)
    return np.unique(tree.child_nodes)


@pytest.fixture(scope="module")
def planned(tiny_corpus, tmp_path_factory):
    """A trained run with learned docids and a plan of words and vectors."""
    model = {"head": "vocabulary", "num_decoder_layers": 0, "plan": PlanConfig(terms=8, dense=True)}
    folder = tmp_path_factory.mktemp("planned") / "run"
    return train_run(learned_experiment(tiny_corpus, model=model, trainer={"steps": 10}), folder)


@pytest.mark.parametrize("kind", ["by_nodes", "planned"])
def test_new_documents_are_found_by_their_texts(kind, request):
    """Without another step, one after the other, among the others of their codes, and by words of their own."""
    run = request.getfixturevalue(kind)
    retriever = Retriever(run, run.params("last"))
    # Vectors of nodes judge a first code by its documents' mean, and have no words of a document alone.
    grown = grown_by_two(retriever, among=1 if kind == "planned" else 3)
    assert grown.run.table.num_documents == 43
    before, after = (one.search(run.corpus.document_text(3), k=1)[0].doc_id for one in (retriever, grown))
    assert before == after  # and vectors are those of a document that says the same:
    copied = retriever.with_documents(["copy"], [run.corpus.document_text(7)]).run
    if kind == "planned":
        assert after == "d3"
        row = docid_numbers(copied.encoded)[0][copied.row_of_document[41]]
        vectors = np.asarray(copied.plan_tables.vectors, np.float32)
        np.testing.assert_allclose(vectors[row], run.parts.document_vectors[7], atol=0.01)
        return
    start = copied.start_params()["decoder"]["prefix_head"]["output_nodes"]
    leaves = [copied.encoded.tree.children(*last) for last in (_last(copied, 41), _last(copied, 7))]
    np.testing.assert_allclose(start[leaves[0]], start[leaves[1]], rtol=1e-4, atol=1e-4)


def _last(run, document):
    """Return the node before a document's last code, and that code's token."""
    row = run.row_of_document[document]
    last = run.encoded.lengths[row] - 1
    return run.encoded.prefix_nodes[[row], last], run.encoded.tokens[[row], last]


def test_nodes_without_texts_have_nothing_for_new_documents(tiny_corpus, tmp_path):
    experiment = learned_experiment(tiny_corpus, ONE_LEVEL, model={"head": "prefix"}, start=None)
    run, _ = prepared(experiment, tmp_path / "run")
    with pytest.raises(InputError, match=r"cannot score documents added after training.*@LsaStart"):
        Retriever(run, run.start_params()).with_documents(["new"], ["text"])


def test_only_as_many_equal_documents_as_there_is_room_for(whole):
    retriever = Retriever(whole[0], whole[0].start_params())
    room = whole[0].settings["codec"]["level_sizes"][-1]
    names = [f"n{number}" for number in range(room + 1)]
    with pytest.raises(InputError, match="documents with the same codes but for the last"):
        retriever.with_documents(names, ["the same"] * len(names))


def test_runs_of_other_docids_have_no_room_for_documents(tiny_run):
    with pytest.raises(InputError, match=r"docids of the strategy 'semantic' for new documents; .*@ResidualKMeans"):
        Retriever.load(tiny_run).with_documents(["new"], ["text"])


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """A trained run of learned docids; not to be changed."""
    return train_run(learned_experiment(tiny_corpus, trainer={"steps": 10}), tmp_path_factory.mktemp("trained") / "run")


def test_it_is_trained_and_loaded_like_any_other(whole, trained):
    assert trained.table.fingerprint == whole[0].table.fingerprint  # learned again, and the same
    retriever = Retriever.load(trained.folder)
    assert len(retriever.search("ban", k=5)) == 5
    with_new = retriever.with_documents(["new"], ["ban bap"])
    assert "new" in {result.doc_id for result in with_new.search("ban bap", k=42, beam=42)}


def test_the_command_adds_documents(trained, tmp_path, capsys):
    text = trained.corpus.texts[3]
    (tmp_path / "new.jsonl").write_text(json.dumps({"_id": "new", "title": "A new one", "text": text}))
    command = ["search", "--run", str(trained.folder), "-k", "42", "--json", "--add", str(tmp_path / "new.jsonl")]
    assert main([*command, text]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert ("new", "A new one") in {(row["doc_id"], row["title"]) for row in json.loads(line)["results"]}


def test_seeds_share_the_docids(tiny_corpus, tmp_path, monkeypatch):
    experiment = learned_experiment(tiny_corpus, trainer={"steps": 2, "evaluate_every": None})
    calls = []
    learn = learning.DocidLearner.learn
    monkeypatch.setattr(learning.DocidLearner, "learn", lambda self, corpus: calls.append(1) or learn(self, corpus))
    first, second = train_seeds(experiment, tmp_path / "runs", [0, 1])
    assert first.table.fingerprint == second.table.fingerprint
    assert first.docid_model.fingerprint == second.docid_model.fingerprint
    assert len(calls) == 1


@pytest.mark.parametrize("stopped_at", [1, 3, 5])
def test_stopped_by_a_signal_it_goes_on_and_comes_to_the_same(whole, tiny_corpus, tmp_path, monkeypatch, stopped_at):
    """In the middle of a phase; of the second level the codes of the first are read back."""
    calls, trained = [], learning.train

    def stopping(task, *args, **kwargs):
        calls.append(kwargs["fingerprint"])
        if len(calls) == stopped_at:
            batch = task.batch

            def last(step, rows=None):
                if step == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                return batch(step, rows)

            task.batch = last
        return trained(task, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(learning, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    assert len(calls) == stopped_at
    assert (tmp_path / "run" / "learning" / "learned_1").is_dir() == (stopped_at > 4)
    again, _ = prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    assert again.table.fingerprint == whole[0].table.fingerprint
    assert again.docid_model.fingerprint == whole[0].docid_model.fingerprint
    assert again.table.strategy["course"] == whole[0].table.strategy["course"]


def test_a_level_is_not_gone_on_with_after_other_codes(tiny_corpus, tmp_path, monkeypatch):
    """Someone has copied the phases of one run into another, whose first level came out otherwise."""
    trained, calls = learning.train, []

    def stop_in_second(task, config, folder, **kwargs):
        calls.append(folder)
        result = trained(task, config, folder, **kwargs)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(learning, "train", stop_in_second)
        with pytest.raises(KeyboardInterrupt):
            prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    kept = tmp_path / "run" / "learning" / "learned_1"
    arrays, manifest = load_arrays(kept, kind="learned_levels", version=1)
    codes = np.array(arrays["codes"])
    other = {name: np.array(array) for name, array in arrays.items()}
    other["codes"] = (codes + 1) % 4 * (codes >= 0) - (codes < 0)
    details = {name: manifest[name] for name in ("course", "examples")}
    save_arrays(kept, other, kind="learned_levels", version=1, details=details, replace=True)
    with pytest.raises(InputError, match="codes so far"):
        prepared(learned_experiment(tiny_corpus), tmp_path / "run")


def test_documents_of_an_unseen_split_are_not_learned_from(tiny_corpus, tmp_path):
    """Their words are in the vocabulary; no example shows them, and their docids are written for them."""
    sampler = SamplerConfig(unseen_split="test")
    run, _ = prepared(learned_experiment(tiny_corpus, sampler=sampler), tmp_path / "run")
    corpus = tiny_topics()
    hidden = {doc_id for grades in corpus.qrels["test"].values() for doc_id in grades}
    assert 10 < len(hidden) < 40
    for at in run.table.strategy["course"]:
        assert at["rows"] == 40 - len(hidden)
    rows = [run.corpus.document_index[doc_id] for doc_id in sorted(hidden)]
    texts = [run.corpus.document_text(row) for row in rows]
    tokens = run.vocabulary.encode_rows(texts, 12, append_eos=False)
    np.testing.assert_array_equal(run.table.padded()[rows, :2], run.docid_model.codes(tokens))


def test_all_levels_at_once_is_the_ablation(tiny_corpus, tmp_path):
    docids = LearnedDocids(levels=2, codebook=4, steps=20, alike=4, document_length=12, progressive=False)
    run, _ = prepared(learned_experiment(tiny_corpus, docids), tmp_path / "run")
    phases = [(at["level"], at["phase"]) for at in run.table.strategy["course"]]
    assert phases == [
        (level, phase) for phase in ("round 1", "round 2", "round 3", "round 4", "fixed") for level in (1, 2)
    ]


def test_a_collapsed_level_leaves_those_before_it(whole, tiny_corpus, tmp_path, monkeypatch):
    written = learning.predict_codes

    def one_code(params, documents, codes, books, known=0):
        found = np.array(written(params, documents, codes, books, known))
        found[:, 1:] = 0
        return found

    with monkeypatch.context() as patch:
        patch.setattr(learning, "predict_codes", one_code)
        patch.setattr(learning, "_MIN_PERPLEXITY_SHARE", 0.5)  # one code of four is a quarter
        with pytest.raises(CollapsedError, match="level 2 has collapsed"):
            prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    left = {path.name for path in (tmp_path / "run" / "learning").iterdir()}
    assert left == {"examples", "learned_1"}
    again, _ = prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    assert again.table.fingerprint == whole[0].table.fingerprint


@pytest.mark.parametrize(("failing", "goes_on"), [(1, False), (2, True)])
def test_an_error_leaves_what_can_be_gone_on_with(whole, tiny_corpus, tmp_path, monkeypatch, failing, goes_on):
    calls, trained = [], learning.train

    def without_space(task, *args, **kwargs):
        calls.append(kwargs["fingerprint"]["phase"])
        if len(calls) == failing:
            raise InputError("no space left on the disk")
        return trained(task, *args, **kwargs)

    monkeypatch.setattr(learning, "train", without_space)
    with pytest.raises(InputError, match="no space left"):
        prepared(learned_experiment(tiny_corpus), tmp_path / "run")
    assert (tmp_path / "run").exists() == goes_on
    if goes_on:
        again, _ = prepared(learned_experiment(tiny_corpus), tmp_path / "run")
        assert again.table.fingerprint == whole[0].table.fingerprint


@pytest.fixture
def learner(whole, tiny_corpus, tmp_path):
    """A learner whose run shows indexing first and computes batches in parts."""
    run = whole[0]
    experiment = learned_experiment(
        tiny_corpus, sampler=SamplerConfig(indexing_first=20), trainer={"gradient_accumulation": 2}
    )
    return learning.DocidLearner(experiment, run.store, run.docid_model.books, tmp_path, lambda line: None)


def test_queries_are_shown_from_the_first_step_on(learner):
    assert (learner._sampler(0).draw(0, np.arange(16))[1].kind != INDEXING).any()


def test_a_batch_is_compared_as_a_whole(learner):
    assert learner._trainer(5).gradient_accumulation == 1


@pytest.mark.parametrize("apart", [4, 2])
def test_codes_do_not_come_from_documents_that_nothing_tells_apart(whole, learner, monkeypatch, apart):
    """Of the shown, so many differ from others with their prefix; two would not do for the codes that are needed."""
    states = np.ones((len(learner._training), 32), np.float32)
    states[:apart] = np.random.default_rng(0).normal(size=(apart, 32))
    learner._codes[learner._training] = 0
    learner._codes[learner._training[apart:], 0] = 1
    monkeypatch.setattr(learner, "_states", lambda params, level: states)
    params = whole[0].docid_model.params
    for made in (learner._with_codebook(params, 1), learner._with_revived_codes(params, (1,))):
        lengths = np.linalg.norm(learner._books.vectors(made, 1), axis=1)
        assert (lengths > 0.1 * lengths.max()).all()


def test_a_code_of_few_documents_is_enough_for_many_that_are_unused(whole, learner):
    """More often than their number can be halved."""
    learner._training = learner._training[:3]
    learner._codes[learner._training] = [[3, 0]] * 3
    before = np.array(learner._books.vectors(whole[0].docid_model.params, 0))
    after = learner._books.vectors(learner._with_revived_codes(whole[0].docid_model.params, (0,)), 0)
    np.testing.assert_array_equal((np.asarray(after) != before).any(axis=1), [True, True, True, False])


def test_unused_codes_move_to_where_documents_are(whole, tiny_corpus, tmp_path):
    """Of a codebook with two codes far from everything, both are used after they were moved."""
    run = whole[0]
    experiment = learned_experiment(tiny_corpus)
    learner = learning.DocidLearner(experiment, run.store, run.docid_model.books, tmp_path, lambda line: None)
    params = run.docid_model.params
    from_all = -50 * learning.decoder_states(params, learner._tokens, learner._codes, learner._books, 0).mean(0)
    far = dict.fromkeys((1, 2), np.asarray(from_all))
    spoiled = learner._books.with_vectors(params, 0, far)
    learner._update_codes(spoiled, (0,))
    before = np.bincount(learner._codes[learner._training, 0], minlength=4)
    assert (before == 0).any()
    mended = learner._with_revived_codes(spoiled, (0,))
    learner._update_codes(mended, (0,))
    after = np.bincount(learner._codes[learner._training, 0], minlength=4)
    assert (after > 0).sum() > (before > 0).sum()


def test_another_run_cannot_be_gone_on_with(whole, tiny_corpus):
    changed = LearnedDocids(levels=3, codebook=4, steps=40, alike=4, document_length=12)
    with pytest.raises(InputError, match=r"another LearnedDocids.levels = 2"):
        prepared(learned_experiment(tiny_corpus, changed), whole[0].folder)


def test_docids_of_another_tokeniser_are_refused(whole, tmp_path):
    """The quantiser of one run beside the docids of another."""
    run = whole[0]
    learned = run.docid_model
    doubled = {"embedding": learned.params["token_embedder"]["embedding"] * 2}
    changed = DocidModel.from_parameters({**learned.params, "token_embedder": doubled}, learned.books, length=12)
    opened = open_run(run.folder)
    opened.quantiser = changed
    with pytest.raises(InputError, match="give the quantiser that was saved when the docids were made"):
        opened.extended(["new"], texts=["text"])


def test_public_weights_are_a_start(tiny_corpus, tmp_path, monkeypatch):
    """T5 1.0's shape, whose output layer is its embedding: documents are first read by the public weights."""
    shape = {"activations": ("relu",), "tie_embeddings": True, "scale_decoder_outputs": True, "vocab_size": 512}
    config = tiny_t5(**shape)
    weights = jax.device_get(random_variables(config, jax.random.key(5), None)["params"])
    save_safetensors(tmp_path / "t5", weights, config)
    experiment = learned_experiment(
        tiny_corpus,
        ONE_LEVEL,
        vocabulary=VocabularyConfig(kind="bytes", normalization="none"),
        start=PretrainedStart(path=str(tmp_path / "t5")),
        model={**dataclasses.asdict(config), "dropout_rate": 0.1},
    )
    begun, trained = [], learning.train

    def watched(*args, **kwargs):
        begun.append(kwargs["init_params"])
        return trained(*args, **kwargs)

    monkeypatch.setattr(learning, "train", watched)
    run, _ = prepared(experiment, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, begun[0], weights)
    assert run.model.vocab_size == 512
    found = Retriever(run, run.start_params()).search(run.corpus.texts[3], k=40, beam=43)
    assert len({result.doc_id for result in found}) == 40


def test_a_document_without_text_has_a_docid_too(whole):
    run = whole[0]
    assert run.table.docid(run.corpus.document_index[EMPTY])


def test_a_corpus_without_queries(tmp_path):
    corpus = tiny_topics()
    bare = write_tiny_corpus(tmp_path / "bare", type(corpus)(**{**vars(corpus), "queries": {}, "qrels": {}}))
    run, _ = prepared(learned_experiment(bare, ONE_LEVEL, trainer={"best_metric": None}), tmp_path / "run")
    assert run.table.num_documents == 41
