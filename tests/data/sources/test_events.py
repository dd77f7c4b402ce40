"""Events: duplicates, the core, the order of time, and what is done about ties."""

import math
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.data.records import Place
from genret_jax.data.sources.events import (
    Event,
    chronological,
    collect_events,
    count_out_of_order,
    distinct,
    k_core,
    ties_with_next,
    time_of,
)
from genret_jax.errors import InputError


def log(text):
    """Read "user item time" a line."""
    rows = (line.split() for line in text.strip().splitlines())
    return collect_events(Event(user, item, float(time)) for user, item, time in rows)


def triples(events):
    return [
        (events.user_ids[u], events.item_ids[i], t)
        for u, i, t in zip(events.user.tolist(), events.item.tolist(), events.time.tolist(), strict=True)
    ]


def bulk_log(order_of_ties, users=10):
    """Users who did six things at one time, in an order that is given, and one before and one after."""
    rows = []
    for user in range(users):
        rows.append(Event(f"u{user}", f"before{user}", 1.0))
        rows += [Event(f"u{user}", str(item), 2.0) for item in order_of_ties]
        rows.append(Event(f"u{user}", f"after{user}", 3.0))
    return collect_events(rows)


def test_ids_are_numbered_in_the_order_of_their_first_event():
    events = log("u2 b 5\nu1 a 1\nu2 a 2")
    assert (events.user_ids, events.item_ids) == (("u2", "u1"), ("b", "a"))
    assert triples(events) == [("u2", "b", 5.0), ("u1", "a", 1.0), ("u2", "a", 2.0)]


def test_nothing_gives_nothing():
    events = collect_events([])
    assert len(events) == 0
    assert not distinct(events).size
    assert not k_core(events.user, events.item, 5).size


def test_a_duplicate_has_the_same_user_item_and_time():
    events = log("u a 1\nu a 2\nv a 1\nu b 1\nu a 1\nv a 1\nu a 1")
    assert distinct(events).tolist() == [True, True, True, True, False, False, False]


def test_the_core_is_taken_again_until_all_have_enough():
    # w has two, but one with c, which has one; without c, w has one; without w, b has one of 2 needed... and so on.
    events = log("u a 1\nu d 2\nv a 1\nv d 3\nw b 1\nw c 1\nx b 1\nx a 4")
    left = events.only(k_core(events.user, events.item, 2))
    assert triples(left) == [("u", "a", 1.0), ("u", "d", 2.0), ("v", "a", 1.0), ("v", "d", 3.0)]
    assert (left.user_ids, left.item_ids) == (("u", "v"), ("a", "d"))


def naive_core(pairs, core):
    """Drop one rare user or item after another, whichever comes first."""
    left = list(enumerate(pairs))
    while True:
        users, items = [user for _, (user, _) in left], [item for _, (_, item) in left]
        rare = [p for p in left if users.count(p[1][0]) < core or items.count(p[1][1]) < core]
        if not rare:
            return {place for place, _ in left}
        user, item = rare[0][1]
        if users.count(user) < core:
            left = [p for p in left if p[1][0] != user]
        else:
            left = [p for p in left if p[1][1] != item]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 4))
def test_the_core_is_what_a_naive_loop_leaves(pairs, core):
    user, item = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    assert set(np.flatnonzero(k_core(user, item, core)).tolist()) == naive_core(pairs, core)


def test_a_core_of_one_keeps_everything():
    events = log("u a 1\nv b 1")
    assert k_core(events.user, events.item, 1).all()


def test_events_are_put_in_the_order_of_time():
    events = log("u c 3\nv x 9\nu a 1\nu b 2\nv y 8")
    assert count_out_of_order(events) == 2  # u's a, v's y
    ordered = chronological(events, "auto").events
    assert triples(ordered) == [("u", "a", 1.0), ("u", "b", 2.0), ("u", "c", 3.0), ("v", "y", 8.0), ("v", "x", 9.0)]


def test_ties_are_pairs_of_one_user_at_one_time():
    ordered = chronological(log("u a 1\nu b 1\nu c 2\nv d 2\nv e 3\nv f 3"), "file").events
    assert ties_with_next(ordered).tolist() == [True, False, False, False, True]


def test_ties_keep_the_order_of_the_file():
    shuffled = [31, 4, 15, 9, 26, 5]
    found = chronological(bulk_log(shuffled), "auto")
    assert (found.tie_order, found.ties_sorted) == ("file", False)
    assert [item for _, item, time in triples(found.events) if time == 2.0] == [str(i) for i in shuffled] * 10


@pytest.mark.parametrize("order", [[4, 5, 9, 15, 26, 131], [131, 26, 15, 9, 5, 4]])
def test_ties_that_are_sorted_by_item_id_are_seen_and_ordered_by_a_hash(order):
    """As numbers: as text, "131" would be the first of them."""
    events = bulk_log(order)
    found = chronological(events, "auto")
    assert (found.tie_order, found.ties_sorted) == ("random", True)
    of_users = [[i for u, i, t in triples(found.events) if t == 2.0 and u == f"u{user}"] for user in range(10)]
    assert all(sorted(items, key=int) == [str(item) for item in sorted(order)] for items in of_users)
    assert len({tuple(items) for items in of_users}) == 10  # each user's own order
    as_in_file = chronological(events, "file")
    assert (as_in_file.tie_order, as_in_file.ties_sorted) == ("file", True)


def test_ids_that_are_words_are_sorted_as_text():
    assert chronological(bulk_log(["B01", "B02", "B1", "C", "a", "b"]), "auto").ties_sorted
    assert not chronological(bulk_log(["C", "B01", "b", "B02", "a", "B1"]), "auto").ties_sorted


def test_a_few_ties_tell_nothing():
    assert not chronological(bulk_log([1, 2], users=19), "auto").ties_sorted
    assert chronological(bulk_log([1, 2], users=20), "auto").ties_sorted


def test_the_hash_does_not_know_the_order_of_the_file():
    events = bulk_log([1, 2, 3, 4, 5, 6])
    shuffled = triples(events)
    random.Random(0).shuffle(shuffled)
    again = chronological(collect_events(Event(*triple) for triple in shuffled), "random").events
    by_user = sorted(triples(chronological(events, "random").events), key=lambda triple: triple[0])
    assert sorted(triples(again), key=lambda triple: triple[0]) == by_user


def test_an_unknown_rule_is_refused(annotations_unchecked):
    with pytest.raises(InputError, match="ties 'item'; expected one of auto, file, random"):
        chronological(log("u a 1"), "item")


@pytest.mark.parametrize("value", [1400000000, "1400000000", 1.4e9, "-3", 0])
def test_times_are_numbers_or_their_text(value):
    assert time_of(value, "'timestamp'", Place(Path("f"), 3)) == float(value)


@pytest.mark.parametrize("value", [None, True, "", "noon", "sNaN", "1e99999999", math.nan, "inf", [1], 10**400])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(InputError, match=r"f:3: 'timestamp' is .*expected a time as a number"):
        time_of(value, "'timestamp'", Place(Path("f"), 3))


@pytest.mark.parametrize("step", [1, "0.5", "1e-7"])
def test_times_that_a_float_cannot_tell_apart_keep_their_order(step):
    """Nanoseconds since 1970 have 19 digits, a float 15 to 17."""
    start = 1_700_000_000_000_000_000
    times = [str(start + number * Decimal(step)) for number in (3, 1, 2, 1)]
    assert len(set(map(float, times))) == 1
    assert not set(times) & {"1.7E+18"}
    events = collect_events(
        Event("u", item, time_of(time, "time", Place(Path("f"), 1))) for item, time in zip("cabx", times, strict=True)
    )
    assert events.time.dtype == np.int64
    assert distinct(events).all()
    assert [item for _, item, _ in triples(chronological(events, "file").events)] == ["a", "x", "b", "c"]
    assert ties_with_next(chronological(events, "file").events).tolist() == [True, False, False]
    again = collect_events(Event("u", "a", time_of(time, "time", Place(Path("f"), 1))) for time in times)
    assert distinct(again).tolist() == [True, True, True, False]


def test_whole_times_are_kept_whatever_they_are_written_as():
    times = [10**18 + 1, str(10**18 + 2), "978300760.0", 978300761.0, -5]
    events = collect_events(Event("u", "a", time_of(time, "time", Place(Path("f"), 1))) for time in times)
    assert events.time.tolist() == [10**18 + 1, 10**18 + 2, 978300760, 978300761, -5]


def test_times_beyond_64_bits_are_ranked():
    events = collect_events(Event("u", "a", time) for time in (2**80 + 1, 2**80, 0.5, 7))
    assert events.time.tolist() == [3, 2, 0, 1]
