"""Items from interactions to recommendations: a run of the made-up shop, and everything that is asked of it."""

import dataclasses
import itertools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_interactions import small_shop
from support.tiny_run import tiny_recommendation

from genret_jax.cli import main
from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.interactions import write_interactions
from genret_jax.data.item_vectors import start_vectors
from genret_jax.data.vectors import LsaVectors
from genret_jax.docids import AtomicDocids, LshDocids, RandomDocids, ResidualKMeans
from genret_jax.errors import InputError
from genret_jax.evaluation.report import Report
from genret_jax.evaluation.trec import read_run
from genret_jax.models.initialize import ItemStart
from genret_jax.models.network import T5
from genret_jax.problems import Measured, problem
from genret_jax.retriever import Retriever
from genret_jax.run import evaluate_runs, prepare, train_run
from genret_jax.training import read_metrics

ITEMS = 24


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items") / "shop"
    write_interactions(small_shop(), folder)
    return folder


@pytest.fixture(scope="module")
def run(shop):
    folder = shop.parent / "run"
    return train_run(tiny_recommendation(shop), folder)


@pytest.fixture(scope="module")
def retriever(run):
    return Retriever.load(run.folder)


def test_training_learns_what_follows_what(run):
    losses = [record["loss"] for record in read_metrics(run.folder) if record.get("loss")]
    assert losses[-1] < 0.8 * losses[0]
    found = next(record for record in reversed(read_metrics(run.folder)) if "validation/recall@10" in record)
    assert found["validation/recall@10"] > 10 / ITEMS, "better than any ten of the items"


def test_recommendations_are_exhaustive_scoring(run, retriever):
    history = ["i3", "i9", "i15"]
    found = retriever.recommend(history, k=ITEMS, beam=ITEMS, user="u5", repeat=True)
    items = np.array([[run.corpus.document_index[item] for item in history]])
    tokens = jnp.asarray(run.encode_histories(np.pad(items, ((0, 0), (0, 3)), constant_values=-1), ["u5"]))
    docids = jnp.asarray(run.item_tokens)
    every = jnp.broadcast_to(tokens, (ITEMS, tokens.shape[1]))
    shifted = jnp.pad(docids[:, :-1], ((0, 0), (1, 0)))
    logits = jax.jit(T5(run.model).apply)({"params": run.params()}, every, shifted)
    scores = np.asarray(jnp.take_along_axis(jax.nn.log_softmax(logits), docids[..., None], -1)[..., 0].sum(-1))
    order = [run.corpus.document_index[result.doc_id] for result in found]
    assert sorted(order) == list(range(ITEMS))
    np.testing.assert_allclose([result.score for result in found], scores[order], atol=1e-4)
    assert [result.score for result in found] == sorted((result.score for result in found), reverse=True)
    assert found[0].title == run.corpus.titles[order[0]]
    assert found[0].docid == run.table.docid(order[0])


def test_what_each_user_may_not_have(run, retriever):
    data = run.interactions
    had = data.histories("test", 20)
    tokens = run.encode_histories(data.histories("test", 6), data.evaluated_ids)
    asked = {"beam": ITEMS, "limit": ITEMS, "batch_size": 16}
    ranked = retriever.rank(tokens, without=had, **asked)
    mask = np.stack([~np.isin(np.arange(ITEMS), row) for row in had])
    expected = retriever.rank(tokens, allowed=mask, **asked)
    for row in range(len(tokens)):
        assert list(ranked.of(row)) == list(expected.of(row))
        assert {item for item, _ in ranked.of(row)} == set(np.flatnonzero(mask[row]))


def test_a_history_does_not_come_out_again_unless_asked_for(retriever):
    history = ["i0", "i6"]
    everything = {result.doc_id for result in retriever.recommend(history, k=ITEMS)}
    assert len(everything) == ITEMS - 2
    assert not everything & set(history)
    assert len(retriever.recommend(history, k=ITEMS, repeat=True)) == ITEMS
    some = retriever.recommend(history, k=5, allow=["i0", "i7", "i8"], forbid=["i8"])
    assert [result.doc_id for result in some] == ["i7"]


def test_only_the_latest_items_of_a_long_history_count(retriever):
    latest = ["i1", "i2", "i3", "i4", "i5", "i6"]
    whole = retriever.recommend(["i20", *latest], k=5, repeat=True)
    assert whole == retriever.recommend(latest, k=5, repeat=True)
    assert whole != retriever.recommend(latest[::-1], k=5, repeat=True)


def test_an_unknown_user_is_nobody(run, retriever):
    history, items = ["i1", "i2"], np.array([[1, 2]])
    assert run.encode_histories(items, [None])[0, 0] == 0
    of_user = retriever.recommend(history, k=5, user="u1")
    assert of_user != retriever.recommend(history, k=5)
    # Hashed alike, two users are one; these tokens stand behind those of the codes.
    first = int(run.encode_histories(items, ["u1"])[0, 0])
    assert run.settings["codec"]["first_token"] + sum(run.table.level_sizes) <= first < run.model.vocab_size


def test_a_run_that_knows_no_users_is_told_of_none(shop, tmp_path, capsys):
    histories = HistoryConfig(items=6, user_tokens=0)
    run = prepare(tiny_recommendation(shop, histories=histories), tmp_path / "run", log=lambda line: None)
    found = Retriever.load(run.folder, checkpoint="start")
    with pytest.raises(InputError, match=r"the user 'u1' for a run that knows histories alone"):
        found.recommend(["i1"], user="u1")
    arguments = ["recommend", "--run", str(run.folder), "--checkpoint", "start", "--user", "u1"]
    assert main(arguments) == 0, "a user of the data has a history"
    assert main([*arguments, "i1"]) == 2
    assert "for a run that knows histories alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("history", "says"),
    [([], "an empty history"), (["i1", "j7"], r"there is no item 'j7'"), (["i1"], "30 results of 20 beams")],
)
def test_histories_that_cannot_be(retriever, history, says):
    with pytest.raises(InputError, match=says):
        retriever.recommend(history, k=30 if "beam" in says else 5, beam=20)


def test_runs_of_the_other_kind(retriever, tiny_run):
    with pytest.raises(InputError, match=r"this run is of items.*genret recommend"):
        retriever.search("espresso")
    with pytest.raises(InputError, match=r"this run is of documents.*genret search"):
        Retriever.load(tiny_run, checkpoint="start").recommend(["d1"])


def recall_of_searches(run, repeat):
    """Recall@5 of what each user of the test would be told."""
    data, retriever = run.interactions, Retriever.load(run.folder)
    users, targets = data.evaluated_users, data.item[data.targets("test")]
    hits = []
    for user, target in zip(users.tolist(), targets, strict=True):
        history = [data.items.doc_ids[item] for item in data.history(user)[:-1]]
        found = retriever.recommend(history, k=5, beam=10, user=data.user_ids[user], repeat=repeat)
        hits.append(data.items.doc_ids[target] in [result.doc_id for result in found])
    return np.mean(hits)


def test_a_report_of_all_users_and_of_the_search_a_user_makes(run, shop, capsys):
    out = shop.parent / "report"
    assert main(["evaluate", "--run", str(run.folder), "--out", str(out), "--sasrec"]) == 0
    shown = capsys.readouterr().out
    assert "Recall@10" in shown
    assert "Items that a user has had may be in the rankings." in shown
    report = Report.load(out / "report.json")
    names = ["popularity", "item neighbours", "SASRec, sampled BCE", "SASRec, full softmax", "run"]
    assert [system.name for system in report.systems] == names
    ndcg = {name: report.find(name, "test").metrics["ndcg@10"].mean for name in names[:-1]}
    assert ndcg[report.reference] == max(ndcg.values())
    assert f"'{report.reference}', the best baseline on 'test' by NDCG@10" in " ".join(shown.split())
    assert "bytes/item  parameters  ms/user" in shown
    by_name = {system.name: system.details for system in report.systems}
    assert all(details["bytes per document"] > 0 for details in by_name.values())
    assert [details["parameters"] > 0 for details in by_name.values()] == [False, False, True, True, True]
    assert by_name["popularity"]["bytes per document"] == 8
    assert set(by_name["run"]["bytes per document by part"]) == {"docid index"}
    measured = report.find("run", "test")
    assert report.dataset.kind == "items"
    assert measured.depth == 10
    assert measured.metrics["recall@5"].mean == pytest.approx(recall_of_searches(run, repeat=True))
    assert (out / "run.run").read_text().count("\n") == 10 * len(run.interactions.evaluated_users)


def test_a_report_without_what_users_have_had(run, shop, capsys):
    out = shop.parent / "new_to_them"
    assert main(["evaluate", "--run", str(run.folder), "--out", str(out), "--exclude-history"]) == 0
    assert "are left out of the rankings" in capsys.readouterr().out
    report = Report.load(out / "report.json")
    assert report.find("run", "test").metrics["recall@5"].mean == pytest.approx(recall_of_searches(run, repeat=False))
    for file in ("run.run", "popularity.run", "item-neighbours.run"):
        for line in (out / file).read_text().splitlines():
            user, _, item, *_ = line.split()
            history = run.interactions.history(run.interactions.user_index[user])[:-1]
            assert run.corpus.document_index[item] not in history


def test_a_ranking_of_items_by_another_system(run, shop):
    out = shop.parent / "beside"
    evaluate_runs([run.folder], out, beam=ITEMS, checkpoint="start")
    file = (out / "popularity.run").rename(shop.parent / "popularity.run")
    # What users have had is left out of this ranking as it is out of all others.
    chosen = {"checkpoint": "start", "measured": Measured(exclude_history=True), "beam": ITEMS}
    report = evaluate_runs([run.folder], out, external={"theirs": file}, **chosen)
    ours, theirs = (report.find(name, "test") for name in ("popularity", "theirs"))
    assert theirs.depth < ITEMS
    assert {"hits@1", "ndcg@5", "ndcg@10"} <= set(theirs.metrics) <= set(ours.metrics)
    assert all(theirs.metrics[name] == ours.metrics[name] for name in theirs.metrics)
    wrong = shop.parent / "wrong.run"
    wrong.write_text("u0 Q0 j7 1 1 t\n")
    with pytest.raises(InputError, match=r"wrong\.run:1: the corpus has no 'j7'"):
        evaluate_runs([run.folder], out, external={"theirs": wrong}, **chosen)


def test_items_that_come_later_are_recommended_at_once(run, retriever):
    """Their docids come from their vectors, so an item like a known one gets its codes but for the last."""
    vectors = LsaVectors(dimensions=8).vectors(run.corpus)
    grown = retriever.with_items(["new1", "new2"], vectors[[3, 7]], titles=["A third", "A seventh"])
    tokens, known = grown.run.item_tokens, run.item_tokens
    np.testing.assert_array_equal(tokens[: len(known)], known)
    np.testing.assert_array_equal(tokens[-2:, :-1], known[[3, 7], :-1])
    assert len(np.unique(tokens, axis=0)) == len(known) + 2
    found = grown.recommend(["i9", "i15"], k=ITEMS + 2, beam=ITEMS + 2, repeat=True)
    assert {"new1", "new2"} < {result.doc_id for result in found}
    assert [result.title for result in found if result.doc_id == "new1"] == ["A third"]
    # None of the results was pushed out of its place, nor do they come out where they are forbidden.
    others = [result.doc_id for result in found if not result.doc_id.startswith("new")]
    assert others == [result.doc_id for result in retriever.recommend(["i9", "i15"], k=ITEMS, beam=ITEMS, repeat=True)]
    assert grown.recommend(["new1"], k=3), "a history may hold them too"
    with pytest.raises(InputError, match="'new1' twice"):
        grown.with_items(["new1"], vectors[:1])
    with pytest.raises(InputError, match="numeric array"):
        retriever.with_items(["new3"], vectors[:1, :5])


def test_new_items_have_their_share(run, retriever):
    vectors = LsaVectors(dimensions=8).vectors(run.corpus)
    names = [f"new{number}" for number in range(6)]
    grown = retriever.with_items(names, vectors[:6])
    history = ["i0", "i6"]

    def new_among(share):
        results = grown.recommend(history, k=10, beam=ITEMS, new_items=share)
        assert len(results) == 10
        for new in (True, False):
            scores = [result.score for result in results if (result.doc_id in names) == new]
            assert scores == sorted(scores, reverse=True)
        return [result.rank for result in results if result.doc_id in names]

    assert new_among(0.0) == []
    assert new_among(0.1) == [10]
    assert new_among(0.2) == [5, 10]
    assert new_among(0.5) == [2, 4, 6, 8, 10]
    assert new_among(1.0) == [1, 2, 3, 4, 5, 6]  # all that there are, and then known ones
    with pytest.raises(InputError, match=r"new_items=1\.5"):
        grown.recommend(history, new_items=1.5)


def test_docids_without_vectors_take_no_new_items(shop, tmp_path):
    experiment = tiny_recommendation(shop, docids=AtomicDocids(), vectors=None)
    run = prepare(experiment, tmp_path / "run", log=lambda line: None)
    with pytest.raises(InputError, match="docids that are made of vectors"):
        run.extended(["new"], vectors=np.zeros((1, 8), np.float32))


@pytest.mark.parametrize("option", ["--no-bm25", "--dual-encoder"])
def test_options_of_the_other_kind_of_run(run, tiny_run, option, capsys):
    assert main(["evaluate", "--run", str(run.folder), option]) == 2
    assert "has no meaning for a run of items" in capsys.readouterr().err
    assert main(["evaluate", "--run", str(tiny_run), "--sasrec"]) == 2
    assert "sasrec has no meaning for a run of documents" in capsys.readouterr().err


def test_new_items_are_kept_from_training_and_reported_apart(shop, tmp_path):
    experiment = tiny_recommendation(shop, cold_items=0.2)
    run = prepare(experiment, tmp_path / "run", log=lambda line: None)
    assert run.later.sum() == round(0.2 * ITEMS)
    examples = run.task().examples
    assert not run.later[examples.item].any()
    report = evaluate_runs([run.folder], tmp_path / "report", checkpoint="start")
    whole, new = report.splits[0], next(split for split in report.splits if split.name == "test, new items")
    ranked = read_run(next((tmp_path / "report").glob("*10*new*.run")))
    doc_ids = run.corpus.doc_ids
    of_new = {doc_ids[item] for item in np.flatnonzero(run.later)}
    shares = [sum(item in of_new for item, _ in found[:10]) for found in ranked.values()]
    assert set(shares) == {1}, "a tenth of the first ten, whatever the scores"
    targets = run.interactions.item[run.interactions.targets("test")]
    assert new.queries == run.later[targets].sum() < whole.queries


def test_runs_with_other_new_items_are_not_compared(run, shop, tmp_path):
    other = prepare(tiny_recommendation(shop, cold_items=0.2), tmp_path / "other", log=lambda line: None)
    with pytest.raises(InputError, match="different items were held out"):
        evaluate_runs([run.folder, other.folder], tmp_path / "report", checkpoint="start")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_histories_have_two_splits_to_evaluate(run, split, tmp_path):
    with pytest.raises(InputError, match=f"the split '{split}' of users' histories.*one of validation, test"):
        evaluate_runs([run.folder], tmp_path / "report", split=split)


def test_causal_histories_train_and_go_on_where_they_were_stopped(shop, tmp_path):
    histories = HistoryConfig(items=6, user_tokens=0, positions="items", causal=True)

    def trained(name, steps):
        experiment = tiny_recommendation(shop, histories=histories, trainer={"steps": steps, "evaluate_every": None})
        return train_run(experiment, tmp_path / name)

    whole, parts = trained("whole", 20), [trained("parts", steps) for steps in (10, 20)][-1]
    jax.tree.map(np.testing.assert_array_equal, whole.params("last"), parts.params("last"))
    assert whole.model.item_input.length == whole.item_tokens.shape[1]
    assert len({result.doc_id for result in Retriever.load(whole.folder).recommend(["i1", "i2"], k=5)}) == 5


def test_a_head_that_knows_nothing_of_new_nodes(shop, tmp_path):
    experiment = tiny_recommendation(shop, docids=ResidualKMeans(levels=2, codebook=7), model={"head": "prefix"})
    run = prepare(experiment, tmp_path / "run", log=lambda line: None)
    retriever = Retriever(run, run.params("start"))
    assert len({result.doc_id for result in retriever.recommend(["i1", "i2"], k=5)}) == 5
    vectors = LsaVectors(dimensions=8).vectors(run.corpus)
    with pytest.raises(InputError, match=r"train with T5Config\.head = 'vocabulary' or T5Config\.shared_codes = True"):
        retriever.with_items(["new"], vectors[:1])


WHOLE = HistoryConfig(items=6, user_tokens=0, positions="items", causal=True, whole_items=True)
SHARED = {"head": "prefix", "shared_codes": True, "root_lookahead": True}


def from_vectors(shop, folder, start, **fields):
    """An untrained run that begins with vectors of its items."""
    fields = {"histories": WHOLE, "model": {**SHARED, "dropout_rate": 0.0}, "start": start, **fields}
    experiment = tiny_recommendation(shop, **fields)
    return prepare(experiment, folder, log=lambda line: None)


@pytest.mark.parametrize(("lookahead", "user_tokens"), [(False, 0), (True, 0), (True, 7)])
def test_the_start_compares_a_decaying_mean_of_the_history_with_the_nodes(
    shop, tmp_path, monkeypatch, lookahead, user_tokens
):
    """Without its small branches the untrained network is a few lines of NumPy."""
    monkeypatch.setitem(SHARED, "root_lookahead", lookahead)
    start, histories = ItemStart(residual_scale=0.0, query_scale=0.0, decay=0.5), WHOLE
    if user_tokens:  # nobody known has none
        histories = dataclasses.replace(WHOLE, causal=False, user_tokens=user_tokens)
    run = from_vectors(shop, tmp_path / "run", start, histories=histories)
    vectors = start_vectors(run.interactions, LsaVectors(dimensions=8).vectors(run.corpus), 32, seed=run.seed)
    codes, nodes = np.split(run.item_inputs, 2, axis=1)
    tree, params = run.encoded.tree, run.start_params()
    added = params["items"]["nodes"][: tree.num_nodes] + params["token_embedder"]["embedding"][tree.node_token]
    summed = np.zeros_like(added)
    for path in nodes:
        for parent, node in itertools.pairwise([0, *path[path > 0]]):
            summed[node] = summed[parent] + added[node]
    leaves = summed[[path[path > 0][-1] for path in nodes]]
    # Turned, and otherwise equal.
    np.testing.assert_allclose(leaves @ leaves.T, 1.3**2 * vectors @ vectors.T, atol=1e-5)
    of_first = np.stack([leaves[codes[:, 0] == code].mean(axis=0) for code in np.unique(codes[:, 0])])
    of_first *= 1.3 / np.linalg.norm(of_first, axis=1, keepdims=True)
    np.testing.assert_allclose(summed[np.unique(nodes[:, 0])], of_first, atol=1e-5)
    history = [3, 9, 15]
    weights = np.array([0.25, 0.5, 1.0])
    context = 2.0 * (weights / weights.sum()) @ leaves[history] / 1.3 * np.sqrt(32)  # value_scale; the encoder's norm

    def logits(node, children):
        hidden = added[node] + context
        return summed[children] @ (hidden / np.sqrt(np.mean(hidden**2)))

    children = [tree.child_nodes[tree.child_offsets[n] : tree.child_offsets[n + 1]] for n in range(tree.num_nodes)]
    expected = np.zeros(ITEMS)
    for item, path in enumerate(nodes):
        node = 0
        for child in path[path > 0]:
            found = logits(node, children[node])
            if node == 0 and lookahead:
                found = np.array([np.logaddexp.reduce(logits(0, children[first])) for first in children[0]])
            expected[item] += found[children[node] == child][0] - np.logaddexp.reduce(found)
            node = child
    retriever = Retriever(run, params)
    results = retriever.recommend([f"i{item}" for item in history], k=ITEMS, beam=ITEMS, repeat=True)
    assert len(results) == ITEMS
    for result in results:
        assert result.score == pytest.approx(expected[run.corpus.document_index[result.doc_id]], abs=2e-4)


def test_new_items_where_nodes_have_vectors_of_their_own(shop, tmp_path, monkeypatch):
    """Nodes that training has not seen have none, and are what their codes say."""
    ids = [f"new{number}" for number in range(8)]
    docids = ResidualKMeans(levels=2, codebook=7)
    run = from_vectors(shop, tmp_path / "run", ItemStart(), cold_items=0.2, docids=docids)
    params = run.start_params()
    nodes = run.item_inputs[:, run.item_tokens.shape[1] :]
    own = params["items"]["nodes"]
    assert not own[np.setdiff1d(nodes[run.later], nodes[~run.later])].any()
    assert own[nodes[~run.later][:, 1]].any()
    in_training = np.asarray(run.task().tree.child_nodes)
    assert set(in_training.tolist()) == set(nodes[~run.later].ravel().tolist()) - {0}
    retriever = Retriever(run, params)
    vectors = LsaVectors(dimensions=8).vectors(run.corpus)
    monkeypatch.setattr(problem, "divisible", lambda size: size)  # no spare rows
    grown = retriever.with_items(ids, vectors[::3])
    assert grown.run.model.num_nodes == grown.run.encoded.tree.num_nodes > run.encoded.tree.num_nodes
    found = grown.recommend(["new1", "i2"], k=32, beam=32, repeat=True)
    assert {result.doc_id for result in found} == {*run.corpus.doc_ids, *ids}
    with pytest.raises(InputError, match="items with the same codes but for the last"):
        retriever.with_items(ids, np.repeat(vectors[:1], 8, 0))


def test_a_start_needs_items_and_nodes_with_vectors(shop):
    with pytest.raises(InputError, match=r"None without HistoryConfig\.whole_items and T5Config\.shared_codes"):
        tiny_recommendation(shop, start=ItemStart())


def test_the_command_prints_titles_or_json(run, tmp_path, capsys):
    assert main(["recommend", "--run", str(run.folder), "-k", "3", "i3", "i9"]) == 0
    shown = capsys.readouterr().out
    assert "i3 i9" in shown
    assert any(title in shown for title in run.corpus.titles)
    (tmp_path / "histories.txt").write_text("i1 i2\n\ni5\n")
    arguments = ["recommend", "--run", str(run.folder), "--file", str(tmp_path / "histories.txt"), "--json", "-k", "2"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == ["i1 i2", "i5"]
    assert {len(line["results"]) for line in lines} == {2}
    assert main(["recommend", "--run", str(run.folder), "--user", "u3"]) == 0
    data = run.interactions
    assert " ".join(data.items.doc_ids[item] for item in data.history(3)) in capsys.readouterr().out


def test_the_command_adds_items(run, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"_id": "new1", "title": "A third"}\n{"_id": "new2"}\n')
    np.save(tmp_path / "new.npy", LsaVectors(dimensions=8).vectors(run.corpus)[[3, 7]])
    command = ["recommend", "--run", str(run.folder), "-k", "26", "--beam", "26", "--repeat", "i9"]
    added = ["--add", str(tmp_path / "new.jsonl"), "--add-vectors", str(tmp_path / "new.npy")]
    assert main([*command, *added]) == 0
    assert "A third" in capsys.readouterr().out
    assert main([*command, *added, "--new-items", "0"]) == 0
    assert "A third" not in capsys.readouterr().out
    assert main([*command, *added[:2]]) == 2
    assert "--add without --add-vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no history"),
        (["--user", "somebody"], "there is no user 'somebody'"),
        (["i1", "--file", "x"], "both a history and --file"),
        (["--file", "{folder}/histories.txt"], "histories.txt:4: there is no item 'j1'"),
    ],
)
def test_what_the_command_refuses(run, tmp_path, capsys, arguments, says):
    (tmp_path / "histories.txt").write_text("\n\ni1\nj1\n")
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert main(["recommend", "--run", str(run.folder), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_fewer_items_than_codes(shop, tmp_path):
    experiment = tiny_recommendation(shop, docids=ResidualKMeans(levels=2, codebook=32))
    with pytest.raises(InputError, match=r"24 items for codebooks of 32.*--gin.ResidualKMeans.codebook=3"):
        prepare(experiment, tmp_path / "run", log=lambda line: None)
    assert not (tmp_path / "run").exists()
    hashed = tiny_recommendation(shop, docids=LshDocids(levels=2, hyperplanes=8))
    with pytest.raises(InputError, match=r"24 items for codebooks of 256.*--gin.LshDocids.hyperplanes=1"):
        prepare(hashed, tmp_path / "run", log=lambda line: None)


def test_items_without_texts_and_vectors(tmp_path):
    shop = small_shop()
    silent = dataclasses.replace(shop.items, titles=("",) * ITEMS, texts=("",) * ITEMS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        write_interactions(dataclasses.replace(shop, items=silent), tmp_path / "shop")
        of_vectors = tiny_recommendation(tmp_path / "shop", vectors=None)
        with pytest.raises(InputError, match=r"items without texts, and no embeddings.npy.*ids_random.gin"):
            prepare(of_vectors, tmp_path / "run", log=lambda line: None)
        random = tiny_recommendation(tmp_path / "shop", vectors=None, docids=RandomDocids(levels=2, codebook=4))
        assert prepare(random, tmp_path / "random", log=lambda line: None).table.num_documents == ITEMS


def test_a_run_folder_is_that_of_its_items(shop, tmp_path):
    prepare(tiny_recommendation(shop), tmp_path / "run", log=lambda line: None)
    data = small_shop()
    fewer = dataclasses.replace(
        data, user_ids=data.user_ids[:-1], offsets=data.offsets[:-1], item=data.item[: data.offsets[-2]]
    )
    write_interactions(fewer, tmp_path / "other")
    with pytest.raises(InputError, match="belongs to another corpus"):
        prepare(tiny_recommendation(tmp_path / "other"), tmp_path / "run", log=lambda line: None)
    with pytest.raises(InputError, match=r"HistoryConfig.items = 6"):
        prepare(tiny_recommendation(shop, histories=HistoryConfig(items=3)), tmp_path / "run", log=lambda line: None)
