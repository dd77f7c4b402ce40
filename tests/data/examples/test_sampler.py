"""The sampler: a pure function of (seed, step, row), with the statistics its configuration states."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.tiny_store import LetterVocabulary, tiny_corpus, tiny_store

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.pseudo_queries import PseudoQueries
from genret_jax.data.examples.sampler import INDEXING, KINDS, PSEUDO_QUERY, RETRIEVAL, Drawn, Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.errors import InputError

VOCABULARY = LetterVocabulary(["cat", "dog"], extra_ids=20)
PLAIN = SamplerConfig(word_drop=0.0, query_word_drop=0.0, resegmentation=0.0, generated_query_rate=0.0, input_length=64)
INDEXING_ONLY = dataclasses.replace(PLAIN, indexing_rate=1.0, pseudo_query_rate=0.0, retrieval_rate=0.0)
PSEUDO_ONLY = dataclasses.replace(PLAIN, indexing_rate=0.0, pseudo_query_rate=1.0, retrieval_rate=0.0)
RETRIEVAL_ONLY = dataclasses.replace(PLAIN, indexing_rate=0.0, pseudo_query_rate=0.0, retrieval_rate=1.0, draw="query")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    return tiny_store(tmp_path_factory.mktemp("store") / "examples")


def draw(store: ExampleStore, config: SamplerConfig, count: int) -> Drawn:
    return Sampler(store, config, seed=0, batch_size=count).draw(0, np.arange(count))[1]


def shown(store: ExampleStore, config: SamplerConfig, count: int = 200) -> list[tuple[str, str]]:
    """The document id and the decoded input of each example."""
    batch = Sampler(store, config, seed=0, batch_size=count).batch(0)
    texts = [VOCABULARY.decode(row) for row in batch["encoder_input_tokens"]]
    return [(store.doc_ids[int(i)], text) for i, text in zip(batch["document"], texts, strict=True)]


def spelled(text: str) -> str:
    return VOCABULARY.decode(VOCABULARY.encode(text))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


ALL_CONFIGS = [
    SamplerConfig(),
    SamplerConfig(draw="query", representation="set", append_eos=True),
    SamplerConfig(representation="inverted", objective="bidirectional", input_length=9),
    SamplerConfig(objective="targets_to_inputs", target_length=12),
    SamplerConfig(objective="span_corruption", append_eos=True),
    SamplerConfig(objective="documents_to_queries", indexing_rate=0.0, target_length=9),
]


@pytest.mark.parametrize("config", ALL_CONFIGS)
def test_parts_equal_the_whole_and_any_step_stands_alone(store: ExampleStore, config: SamplerConfig) -> None:
    sampler = Sampler(store, config, seed=3, batch_size=32)
    in_order = [sampler.batch(step) for step in range(4)]
    parts = [sampler.batch(3, rows) for rows in (slice(0, 5), np.arange(5, 31), np.array([31]))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_same(joined, in_order[3])
    assert_same(Sampler(store, config, seed=3, batch_size=32).batch(3), in_order[3])
    shuffled = sampler.batch(3, np.array([7, 2]))
    assert_same(shuffled, {name: values[[7, 2]] for name, values in in_order[3].items()})
    # A larger batch begins with the rows of a smaller one.
    larger = Sampler(store, config, seed=3, batch_size=64).batch(3, slice(0, 32))
    assert_same(larger, in_order[3])
    inputs = [batch["encoder_input_tokens"].tobytes() for batch in in_order]
    inputs.append(Sampler(store, config, seed=4, batch_size=32).batch(3)["encoder_input_tokens"].tobytes())
    assert len(set(inputs)) == 5


def test_the_same_numbers_on_every_platform(store: ExampleStore) -> None:
    # Written down once: a change here means that no run can be resumed across it.
    batch = Sampler(store, SamplerConfig(input_length=8), seed=11, batch_size=6).batch(5)
    found = [
        f"{VOCABULARY.decode(row)}|{i}" for row, i in zip(batch["encoder_input_tokens"], batch["document"], strict=True)
    ]
    assert found == [
        "c a t s t h e cat|0",
        "c a t s l e e p|1",
        "o t h e r|1",
        "cat s l e e p|0",
        "w h a t l i v e|3",
        "w h a t i t|4",
    ]


@pytest.mark.parametrize("config", ALL_CONFIGS)
def test_shapes_and_types(store: ExampleStore, config: SamplerConfig) -> None:
    sampler = Sampler(store, config, seed=0, batch_size=16)
    batch = sampler.batch(0)
    assert {name: (value.shape, str(value.dtype)) for name, value in batch.items()} == {
        "encoder_input_tokens": ((16, config.input_length), "int32"),
        "decoder_target_tokens": ((16, sampler.decoder_length), "int32"),
        "decoder_input_tokens": ((16, sampler.decoder_length), "int32"),
        "decoder_loss_weights": ((16, sampler.decoder_length), "float32"),
        "query": ((16,), "int32"),
        "docid_row": ((16,), "int32"),
        "decoder_prefix_nodes": ((16, sampler.decoder_length), "int32"),
        "document": ((16,), "int32"),
    }
    targets = batch["decoder_target_tokens"]
    np.testing.assert_array_equal(batch["decoder_loss_weights"], targets != 0)
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], targets[:, :-1])
    assert not batch["decoder_input_tokens"][:, 0].any()
    inputs = batch["encoder_input_tokens"]
    lengths = (inputs != 0).sum(1)
    assert lengths.min() >= 1
    assert (inputs[np.arange(config.input_length) >= lengths[:, None]] == 0).all()
    if config.append_eos:
        assert (inputs[np.arange(16), lengths - 1] == 1).all()


def test_targets_are_a_docid_of_the_document(store: ExampleStore) -> None:
    batch = Sampler(store, SamplerConfig(), seed=0, batch_size=400).batch(0)
    offsets, rows = store.array("docid_offsets"), store.array("docid_tokens")
    used = set()
    for document, tokens, nodes in zip(
        batch["document"], batch["decoder_target_tokens"], batch["decoder_prefix_nodes"], strict=True
    ):
        candidates = range(offsets[document], offsets[document + 1])
        row = next(i for i in candidates if (rows[i] == tokens).all())
        np.testing.assert_array_equal(nodes, store.array("docid_prefix_nodes")[row])
        used.add((int(document), row))
    assert used == {(0, 0), (1, 1), (3, 3), (4, 4), (4, 5)}  # document 2 has no text, document 4 two docids


def test_rates_and_uniform_documents(store: ExampleStore) -> None:
    drawn = draw(
        store, dataclasses.replace(PLAIN, indexing_rate=2.0, pseudo_query_rate=5.0, retrieval_rate=3.0), 20_000
    )
    assert set(drawn.document.tolist()) == {0, 1, 3, 4}
    np.testing.assert_allclose(np.bincount(drawn.document)[[0, 1, 3, 4]] / 20_000, 0.25, atol=0.015)
    with_queries = np.isin(drawn.document, [0, 1])
    shares = np.bincount(drawn.kind[with_queries], minlength=3) / with_queries.sum()
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.02)
    # Documents without training queries show pseudo-queries instead.
    shares = np.bincount(drawn.kind[~with_queries], minlength=3) / (~with_queries).sum()
    np.testing.assert_allclose(shares, [0.2, 0.8, 0.0], atol=0.02)
    assert ((drawn.query >= 0) == (drawn.kind == RETRIEVAL)).all()


def test_indexing_first_and_the_others_after_it(store: ExampleStore) -> None:
    config = SamplerConfig(indexing_rate=1.0, pseudo_query_rate=1.0, retrieval_rate=1.0, indexing_first=3)
    sampler = Sampler(store, config, seed=0, batch_size=64)
    kinds = [set(sampler.draw(step, np.arange(64))[1].kind.tolist()) for step in range(6)]
    assert kinds == [{INDEXING}] * 3 + [{PSEUDO_QUERY, RETRIEVAL}] * 3


def test_documents_of_an_unseen_split_are_never_shown(store: ExampleStore) -> None:
    hidden = set(store.pairs("test")[1].tolist())
    assert 0 < len(hidden) < store.num_documents
    for by in ("document", "query"):
        sampler = Sampler(store, SamplerConfig(unseen_split="test", draw=by), seed=0, batch_size=500)
        drawn = sampler.batch(0)["document"]
        assert hidden.isdisjoint(drawn.tolist())
        assert set(sampler.documents.tolist()) == set(store.documents_with_text.tolist()) - hidden


def test_examples_of_given_documents(store: ExampleStore) -> None:
    sampler = Sampler(store, SamplerConfig(), seed=0, batch_size=64)
    wanted = np.resize(store.documents_with_text[:3], 64)
    batch = sampler.batch(4, documents=wanted)
    np.testing.assert_array_equal(batch["document"], wanted)
    some = sampler.batch(4, np.array([5, 9]), wanted[[5, 9]])
    np.testing.assert_array_equal(some["encoder_input_tokens"], batch["encoder_input_tokens"][[5, 9]])
    _, drawn = sampler.draw(4, np.arange(64), wanted)
    query, document, _ = store.pairs("train")
    pairs = set(zip(query.tolist(), document.tolist(), strict=True))
    asked = drawn.kind == RETRIEVAL
    assert asked.any()
    assert set(zip(drawn.query[asked].tolist(), wanted[asked].tolist(), strict=True)) <= pairs


def test_draw_by_query_then_by_document(store: ExampleStore) -> None:
    drawn = draw(store, RETRIEVAL_ONLY, 12_000)
    assert (drawn.kind == RETRIEVAL).all()
    pairs = [(store.query_ids[int(q)], store.doc_ids[int(d)]) for q, d in zip(drawn.query, drawn.document, strict=True)]
    shares = {pair: pairs.count(pair) / 12_000 for pair in set(pairs)}
    # A third for each query; q2 divides its own among its two documents; q3's empty document is left out.
    expected = {("q1", "cat"): 1 / 3, ("q2", "cat"): 1 / 6, ("q2", "dog"): 1 / 6, ("q3", "dog"): 1 / 3}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[pair] - expected[pair]) < 0.02 for pair in expected)


def test_queries_are_shown_with_their_documents(store: ExampleStore) -> None:
    corpus = tiny_corpus()
    expected = {
        (doc_id, spelled(corpus.queries[query_id]))
        for query_id, grades in corpus.qrels["train"].items()
        for doc_id in grades
        if doc_id != "empty"
    }
    assert set(shown(store, RETRIEVAL_ONLY)) == expected
    test_split = dataclasses.replace(RETRIEVAL_ONLY, split="test")
    assert ("fish", spelled("who swims")) in shown(store, test_split)


@pytest.mark.parametrize("by", ["document", "query"])
def test_without_training_queries_pseudo_queries_take_their_place(by: str, tmp_path: Path) -> None:
    corpus = dataclasses.replace(tiny_corpus(), qrels={"test": tiny_corpus().qrels["test"]})
    store = tiny_store(tmp_path / "examples", corpus=corpus)
    drawn = draw(store, dataclasses.replace(RETRIEVAL_ONLY, draw=by), 100)
    assert (drawn.kind == PSEUDO_QUERY).all()
    assert (drawn.words[:, 0] >= 0).all()


def test_direct_shows_the_first_tokens(store: ExampleStore) -> None:
    expected = {
        (store.doc_ids[i], VOCABULARY.decode(store.document_inputs(9)[i])) for i in store.documents_with_text.tolist()
    }
    assert set(shown(store, dataclasses.replace(INDEXING_ONLY, input_length=9))) == expected


def test_set_shows_distinct_terms_or_the_text_where_all_are_stop_words(store: ExampleStore) -> None:
    assert set(shown(store, dataclasses.replace(INDEXING_ONLY, representation="set"))) == {
        ("cat", spelled("cats cat sat mat ran slept whole day")),
        ("dog", spelled("dog barks every")),
        ("fish", spelled("fish swim sea")),
        ("stop", spelled("it is what it is")),
    }


def test_inverted_shows_every_chunk_and_nothing_else(tmp_path: Path) -> None:
    words = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]
    corpus = Corpus(name="c", doc_ids=("long", "short"), titles=("", ""), texts=(" ".join(words), "ab cd"), source="c")
    store = tiny_store(tmp_path / "examples", corpus=corpus)
    found = set(shown(store, dataclasses.replace(INDEXING_ONLY, representation="inverted", input_length=6)))
    chunks = {("long", spelled(" ".join(words[i : i + 3]))) for i in range(8)}
    assert found == chunks | {("short", spelled("ab cd"))}


def test_a_network_that_writes_queries_is_shown_none_that_were_generated(store: ExampleStore) -> None:
    writes = dataclasses.replace(PSEUDO_ONLY, objective="documents_to_queries")
    with_any = draw(store, dataclasses.replace(writes, generated_query_rate=1.0), 400)
    np.testing.assert_array_equal(with_any.words, draw(store, writes, 400).words)


def test_generated_queries_come_at_their_rate(store: ExampleStore) -> None:
    examples = shown(store, dataclasses.replace(PSEUDO_ONLY, generated_query_rate=0.25), 8000)
    of_fish = [text for doc_id, text in examples if doc_id == "fish"]
    generated = [of_fish.count(spelled(text)) / len(of_fish) for text in ("what lives in water", "swimming animals")]
    np.testing.assert_allclose(generated, [0.125, 0.125], atol=0.03)
    assert not any(text == spelled("swimming animals") for doc_id, text in examples if doc_id != "fish")


def one_long_document(tmp_path: Path) -> tuple[ExampleStore, list[str]]:
    """A document of 60 distinct two-letter words, the first ten of which stand in all of nine other documents."""
    words = [a + b for a in "abcdef" for b in "klmnopqrst"]
    texts = (" ".join(words), *[" ".join(words[:10])] * 9)
    ids = tuple(f"d{i}" for i in range(10))
    corpus = Corpus(name="long", doc_ids=ids, titles=("",) * 10, texts=texts, source="long")
    return tiny_store(tmp_path / "examples", corpus=corpus), words


@pytest.mark.parametrize(("kind", "least", "most"), [("span", 5, 12), ("window", 8, 24)])
def test_stretches_lie_inside_the_document_with_their_lengths(kind: str, least: int, most: int, tmp_path: Path) -> None:
    store, words = one_long_document(tmp_path)
    weights = dict.fromkeys(("span_weight", "window_weight", "terms_weight"), 0.0) | {f"{kind}_weight": 1.0}
    drawn = draw(store, dataclasses.replace(PSEUDO_ONLY, pseudo_queries=PseudoQueries(**weights)), 30_000)
    rows = drawn.words[drawn.document == 0]
    lengths = (rows >= 0).sum(1)
    assert (rows[np.arange(rows.shape[1]) < lengths[:, None]] >= 0).all()
    # Words are numbered as they occur, so a stretch counts up from where it starts.
    inside = np.arange(rows.shape[1]) < lengths[:, None]
    assert (rows == rows[:, :1] + np.arange(rows.shape[1]))[inside].all()
    assert (rows.max(1) < len(words)).all()
    share = np.bincount(lengths, minlength=most + 1)[least:] / len(rows)
    assert len(share) == most - least + 1
    np.testing.assert_allclose(share, 1 / len(share), atol=0.03)
    assert len(np.unique(rows[:, 0])) == 61 - least  # a stretch can begin anywhere where it still fits
    assert rows.max() == 59
    short = drawn.words[drawn.document == 1]
    assert (short >= 0).sum(1).max() <= 10
    assert short.max() == 9


def test_sentences_are_shown_whole(store: ExampleStore) -> None:
    only = PseudoQueries(span_weight=0.0, window_weight=0.0, terms_weight=0.0, sentence_weight=1.0)
    assert set(shown(store, dataclasses.replace(PSEUDO_ONLY, pseudo_queries=only))) == {
        ("cat", spelled("cats")),
        ("cat", spelled("the cat sat on a mat")),
        ("cat", spelled("the cat ran")),
        ("cat", spelled("then it slept for the whole day")),
        ("dog", spelled("a dog barks at every other dog")),
        ("fish", spelled("fish")),
        ("fish", spelled("fish swim in the sea")),
        ("stop", spelled("it is what it is")),
    }


def test_terms_are_distinct_and_follow_their_idf(tmp_path: Path) -> None:
    store, _ = one_long_document(tmp_path)
    only = PseudoQueries(span_weight=0.0, window_weight=0.0, terms_weight=1.0, terms=(3, 8))
    drawn = draw(store, dataclasses.replace(PSEUDO_ONLY, pseudo_queries=only), 60_000)
    rows = drawn.words[drawn.document == 0]
    lengths = (rows >= 0).sum(1)
    np.testing.assert_allclose(np.bincount(lengths, minlength=9)[3:] / len(rows), 1 / 6, atol=0.03)
    assert all(len(set(row[:size].tolist())) == size for row, size in zip(rows[:500], lengths[:500], strict=True))
    # The first word drawn follows the weights exactly: idf 1 where all ten documents have the word, else ln(11/2) + 1.
    rare = np.log(11 / 2) + 1
    expected = np.array([1.0] * 10 + [rare] * 50) / (10 + 50 * rare)
    found = np.bincount(rows[:, 0], minlength=60) / len(rows)
    np.testing.assert_allclose(found[:10].sum(), expected[:10].sum(), atol=0.012)
    np.testing.assert_allclose(found[10:].sum(), expected[10:].sum(), atol=0.012)
    assert found.min() > 0
    few = drawn.words[drawn.document == 1]
    assert few.max() == 9


def test_kinds_of_pseudo_queries_come_by_their_weights(store: ExampleStore) -> None:
    from genret_jax.data.examples.counter_random import RowRandom

    queries = PseudoQueries(span_weight=1.0, window_weight=2.0, sentence_weight=3.0, terms_weight=4.0)
    random = RowRandom(0, 0, np.arange(10_000))
    _, kinds = queries.draw(store, np.zeros(10_000, np.int64), random, 24)
    np.testing.assert_allclose(np.bincount(kinds) / 10_000, [0.1, 0.2, 0.3, 0.4], atol=0.02)


def test_words_are_dropped_at_their_rate_but_never_all(tmp_path: Path) -> None:
    words = [a + b for a in "abcdef" for b in "klmnopqrst"]
    corpus = Corpus(
        name="c",
        doc_ids=("d",),
        titles=("",),
        texts=(" ".join(words),),
        queries={"long": " ".join(words[::-1]), "one": "zz"},
        qrels={"train": {"long": {"d": 1}, "one": {"d": 1}}},
        source="c",
    )
    store = tiny_store(tmp_path / "examples", corpus=corpus)
    kept = {}
    for name, base in (("document", INDEXING_ONLY), ("query", RETRIEVAL_ONLY)):
        config = dataclasses.replace(base, word_drop=0.2, query_word_drop=0.3, input_length=120)
        rows = Sampler(store, config, seed=0, batch_size=2000).batch(0)["encoder_input_tokens"]
        sizes = (rows != 0).sum(1) / 2  # two letters a word
        assert sizes.min() >= 1
        kept[name] = sizes[sizes > 1].mean() / 60
    assert abs(kept["document"] - 0.8) < 0.01
    assert abs(kept["query"] - 0.5) < 0.01
    nearly_all = dataclasses.replace(INDEXING_ONLY, word_drop=0.999, query_word_drop=0.0)
    assert (Sampler(store, nearly_all, seed=0, batch_size=500).batch(0)["encoder_input_tokens"] > 0).any(1).all()


def test_words_dropped_from_a_long_document_make_room_for_later_ones(tmp_path: Path) -> None:
    store, _ = one_long_document(tmp_path)
    config = dataclasses.replace(INDEXING_ONLY, word_drop=0.3, input_length=20)
    batch = Sampler(store, config, seed=0, batch_size=300).batch(0)
    assert (batch["encoder_input_tokens"][batch["document"] == 0] > 0).all()


def test_share_of_words_with_sampled_segmentation(store: ExampleStore) -> None:
    config = dataclasses.replace(INDEXING_ONLY, resegmentation=0.4)
    batch = Sampler(store, config, seed=0, batch_size=8000).batch(0)
    tokens = batch["encoder_input_tokens"][batch["document"] == 1]
    dog = VOCABULARY.token("dog")
    # "A dog barks at every other dog." has "dog" twice, each with two segmentations: half of 0.4 are the letters.
    assert abs((tokens == dog).sum() / (2 * len(tokens)) - 0.8) < 0.02
    plain = Sampler(store, INDEXING_ONLY, seed=0, batch_size=100).batch(0)
    assert ((plain["encoder_input_tokens"] == dog).sum(1)[plain["document"] == 1] == 2).all()


def test_targets_to_inputs_asks_for_the_document(store: ExampleStore) -> None:
    config = dataclasses.replace(INDEXING_ONLY, objective="targets_to_inputs", input_length=12, target_length=10)
    batch = Sampler(store, config, seed=0, batch_size=60).batch(0)
    first = store.vocabulary_size
    row = next(i for i, document in enumerate(batch["document"]) if document == 1)
    assert batch["encoder_input_tokens"][row].tolist() == [first + 1, first + 3] + [0] * 10
    assert batch["decoder_target_tokens"][row].tolist() == [*VOCABULARY.encode("a dog barks at"), 1]
    assert batch["decoder_target_tokens"].shape == (60, 10)
    assert not batch["decoder_prefix_nodes"].any()


def test_bidirectional_tells_the_direction_by_a_sentinel(store: ExampleStore) -> None:
    config = dataclasses.replace(INDEXING_ONLY, objective="bidirectional", input_length=12)
    batch = Sampler(store, config, seed=0, batch_size=2000).batch(0)
    front = batch["encoder_input_tokens"][:, 0]
    to_docid, to_text = VOCABULARY.sentinel(0), VOCABULARY.sentinel(1)
    assert set(front.tolist()) == {to_docid, to_text}
    assert abs((front == to_text).mean() - 0.5) < 0.04
    first = store.vocabulary_size
    rows = {(int(token), int(i)): n for n, (token, i) in enumerate(zip(front, batch["document"], strict=True))}
    forward, backward = rows[to_docid, 1], rows[to_text, 1]
    assert batch["encoder_input_tokens"][forward].tolist() == [to_docid, *VOCABULARY.encode("a dog barks at eve")[:11]]
    assert batch["decoder_target_tokens"][forward].tolist() == [first + 1, first + 3] + [0] * 10
    assert batch["decoder_prefix_nodes"][forward].any()
    assert batch["encoder_input_tokens"][backward].tolist() == [to_text, first + 1, first + 3] + [0] * 9
    assert batch["decoder_target_tokens"][backward].tolist() == [*VOCABULARY.encode("a dog barks at ev"), 1]
    assert not batch["decoder_prefix_nodes"][backward].any()


def test_text_that_the_decoder_writes_is_whole(store: ExampleStore) -> None:
    noisy = dataclasses.replace(INDEXING_ONLY, word_drop=0.5, resegmentation=1.0, target_length=64)
    for objective in ("targets_to_inputs", "bidirectional"):
        batch = Sampler(store, dataclasses.replace(noisy, objective=objective), seed=0, batch_size=200).batch(0)
        of_dog = batch["decoder_target_tokens"][batch["document"] == 1]
        texts = {VOCABULARY.decode(row) for row in of_dog if row[0] < store.vocabulary_size}
        assert texts == {spelled("a dog barks at every other dog")}


def test_span_corruption_masks_docid_and_document(store: ExampleStore) -> None:
    config = dataclasses.replace(INDEXING_ONLY, objective="span_corruption", input_length=12)
    batch = Sampler(store, config, seed=0, batch_size=2000).batch(0)
    first = store.vocabulary_size
    whole = [first + 1, first + 3, *VOCABULARY.encode("a dog barks at ev")][:12]
    docid_masked = 0
    for inputs, targets in zip(
        batch["encoder_input_tokens"][batch["document"] == 1].tolist(),
        batch["decoder_target_tokens"][batch["document"] == 1].tolist(),
        strict=True,
    ):
        # 2 of 12 tokens in one span, seen in two parts where it goes round the ends.
        inputs, targets = [t for t in inputs if t], [t for t in targets if t]
        assert targets[-1] == 1
        assert sorted(t for t in inputs + targets[:-1] if not 31 <= t < first) == sorted(whole)
        docid_masked += first + 1 not in inputs
    assert 0.08 < docid_masked / (batch["document"] == 1).sum() < 0.26


def test_retrieval_keeps_asking_for_docids_whatever_the_objective(store: ExampleStore) -> None:
    config = dataclasses.replace(RETRIEVAL_ONLY, indexing_rate=1e-9, objective="targets_to_inputs")
    batch = Sampler(store, config, seed=0, batch_size=50).batch(0)
    plain = Sampler(store, RETRIEVAL_ONLY, seed=0, batch_size=50).batch(0)
    np.testing.assert_array_equal(batch["encoder_input_tokens"], plain["encoder_input_tokens"])
    width = store.docid_length
    np.testing.assert_array_equal(batch["decoder_target_tokens"][:, :width], plain["decoder_target_tokens"])


def test_objectives_that_write_text_need_one_vocabulary_and_sentinels(tmp_path: Path) -> None:
    few = tiny_store(tmp_path / "few", vocabulary=LetterVocabulary(extra_ids=1))
    with pytest.raises(InputError, match=r"'bidirectional' with 1 sentinels.*at least 2.*--extra-ids"):
        Sampler(few, SamplerConfig(objective="bidirectional"), seed=0, batch_size=1)
    with pytest.raises(InputError, match=r"'span_corruption' with 1 sentinels"):
        Sampler(few, SamplerConfig(objective="span_corruption"), seed=0, batch_size=1)
    Sampler(few, SamplerConfig(objective="targets_to_inputs"), seed=0, batch_size=1)
    apart = tiny_store(tmp_path / "apart", first_token=2)
    with pytest.raises(InputError, match=r"docid tokens from 2 on.*text and docids in one vocabulary"):
        Sampler(apart, SamplerConfig(objective="targets_to_inputs"), seed=0, batch_size=1)
    Sampler(apart, SamplerConfig(), seed=0, batch_size=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"indexing_rate": -1.0}, "indexing_rate is -1.0"),
        ({"indexing_rate": 0.0, "pseudo_query_rate": 0.0, "retrieval_rate": 0.0}, "some rate above 0"),
        ({"word_drop": 0.7}, "below 1 with word_drop added"),
        ({"input_length": 1}, "input_length is 1"),
        ({"resegmentation": 1.5}, "from 0 to 1"),
        ({"indexing_first": -1}, "0 or more"),
        ({"indexing_first": 5, "indexing_rate": 0.0}, "0 unless indexing and others have a rate"),
    ],
)
def test_wrong_configurations(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplerConfig(**fields)


@pytest.mark.parametrize("fields", [{"span_words": (5, 2)}, {"terms": (0, 3)}, {"terms_weight": -1.0}])
def test_wrong_pseudo_queries(fields: dict) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        PseudoQueries(**fields)
    with pytest.raises(InputError, match="some weight above 0"):
        PseudoQueries(span_weight=0.0, window_weight=0.0, terms_weight=0.0)


def test_unknown_split(store: ExampleStore) -> None:
    with pytest.raises(InputError, match="no split 'dev'"):
        Sampler(store, SamplerConfig(split="dev"), seed=0, batch_size=1)


def test_kinds_have_names() -> None:
    assert [KINDS[kind] for kind in (INDEXING, PSEUDO_QUERY, RETRIEVAL)] == ["indexing", "pseudo_query", "retrieval"]


def test_documents_to_queries_shows_documents_and_asks_for_what_was_drawn_for_them(store: ExampleStore) -> None:
    """The same draw as with the other objective, turned around."""
    asked = dataclasses.replace(RETRIEVAL_ONLY, objective="documents_to_queries", target_length=40, append_eos=True)
    batch = Sampler(store, asked, seed=0, batch_size=50).batch(0)
    other = Sampler(store, RETRIEVAL_ONLY, seed=0, batch_size=50).batch(0)
    np.testing.assert_array_equal(batch["document"], other["document"])
    inputs = store.document_inputs(asked.input_length, documents=batch["document"], append_eos=True)
    np.testing.assert_array_equal(batch["encoder_input_tokens"], inputs)
    targets = [VOCABULARY.decode(row) for row in batch["decoder_target_tokens"]]
    assert targets == [VOCABULARY.decode(row) for row in other["encoder_input_tokens"]]
    lengths = (batch["decoder_target_tokens"] > 0).sum(axis=1)
    assert (batch["decoder_target_tokens"][np.arange(50), lengths - 1] == 1).all(), "EOS"
    assert not batch["decoder_prefix_nodes"].any()
    with pytest.raises(InputError, match=r"indexing_rate is 1\.0; expected 0 with objective 'documents_to_queries'"):
        dataclasses.replace(INDEXING_ONLY, objective="documents_to_queries")
