"""Holding out: a fixed function of the query ids; what is held out is not generated either."""

import dataclasses

from support.tiny_run import tiny_topics

from genret_jax.data.splits import hold_out, without_generated


def test_a_share_of_the_training_queries_moves_and_nothing_is_lost():
    corpus = tiny_topics()
    divided = hold_out(corpus, 0.25)
    train, validation = divided.qrels["train"], divided.qrels["validation"]
    assert not train.keys() & validation.keys()
    assert {**train, **validation} == corpus.qrels["train"]
    assert 4 <= len(validation) <= 16  # 40 queries
    assert divided.qrels["test"] == corpus.qrels["test"]
    assert divided.queries == corpus.queries
    assert divided.fingerprint == corpus.fingerprint


def test_a_query_keeps_its_side_when_others_go():
    corpus = tiny_topics()
    moved = set(hold_out(corpus, 0.25).qrels["validation"])
    half = dict(list(corpus.qrels["train"].items())[::2])
    smaller = dataclasses.replace(corpus, qrels={"train": half})
    assert set(hold_out(smaller, 0.25).qrels["validation"]) == moved & set(half)
    assert set(hold_out(corpus, 0.5).qrels["validation"]) > moved


def test_no_split_is_empty():
    corpus = tiny_topics()
    few = dataclasses.replace(corpus, qrels={"train": dict(list(corpus.qrels["train"].items())[:2])})
    assert hold_out(few, 0.0).qrels == few.qrels
    assert hold_out(few, 1e-9) is few
    for share in (0.9999999, 1.0):
        divided = hold_out(few, share, split="kept")
        assert [len(divided.qrels[name]) for name in ("train", "kept")] == [1, 1]


def test_generated_queries_with_the_words_of_a_held_out_query_are_left_out():
    corpus = dataclasses.replace(
        tiny_topics(),
        queries={"known": "the banBap", "held": "Fit, wit!", "wordless": "?!"},
        qrels={"train": {"known": {"d0": 1}}, "validation": {"held": {"d1": 1}, "wordless": {"d2": 1}}},
        generated_queries={
            "d0": ("ban_bap the", "the ban bap", "fit wit"),
            "d1": ("FIT wit",),
            "d2": ("wit fit", "..."),
        },
    )
    kept, left_out = without_generated(corpus, split="validation")
    assert kept.generated_queries == {"d0": ("ban_bap the", "the ban bap"), "d2": ("wit fit", "...")}
    assert left_out == 2
    assert without_generated(corpus, split="test") == (corpus, 0)
