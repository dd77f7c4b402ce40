"""From events to histories: what is changed, and that the report says so."""

import dataclasses
import json
from pathlib import Path

import pytest

from genret_jax.data.interactions import read_interactions, write_interactions
from genret_jax.data.sources.events import Event, collect_events
from genret_jax.data.sources.importing import ItemText, build_histories
from genret_jax.errors import InputError

FILE = Path("log.tsv")
# ann: a duplicate (b 2), an event out of order (a 1), and a tie (c and d at 4) that decides the test item.
# bob: a tie (c and a at 1) far from the end. cyd: too rare. e: too rare, but for its duplicate.
LOG = """
ann b 2
ann a 1
ann b 2
ann c 4
ann d 4
bob c 1
bob a 1
bob d 3
bob b 4
bob a 5
cyd e 1
cyd e 1
"""
TEXTS = {i: ItemText(f"Item {i}", f"Item {i}. Brand: B.") for i in "abdez"}


def events(text=LOG):
    rows = (line.split() for line in text.strip().splitlines())
    return collect_events(Event(user, item, float(time)) for user, item, time in rows)


@pytest.fixture
def imported():
    return build_histories(events(), source=FILE, core=2).with_texts(TEXTS, name="log", files=[Path("items")])


def test_histories_are_in_the_order_of_time_with_the_items_that_are_left(imported):
    found = imported.interactions
    assert found.user_ids == ("ann", "bob")
    assert found.items.doc_ids == ("b", "a", "c", "d")
    names = [[found.items.doc_ids[i] for i in found.history(user)] for user in (0, 1)]
    assert names == [["a", "b", "c", "d"], ["c", "a", "d", "b", "a"]]
    assert found.items.titles == ("Item b", "Item a", "", "Item d")
    assert found.items.document_text(0) == "Item b. Brand: B."
    assert (found.name, found.items.source) == ("log", "log.tsv")


def test_the_report_counts_every_change(imported):
    report = imported.report
    assert dataclasses.asdict(report) == {
        "source": "log.tsv",
        "events": 12,
        "duplicates": 2,
        "out_of_order": 1,
        "core": 2,
        "dropped_events": 1,
        "dropped_users": 1,
        "dropped_items": 1,
        "tie_order": "file",
        "ties_sorted": False,
        "tied_events": 4,
        "tied_users": 1,
        "users": 2,
        "items": 4,
        "interactions": 9,
        "repeats": 1,
        "mean_length": 4.5,
        "median_length": 4.5,
        "items_without_text": 1,
    }
    assert json.loads(json.dumps(dataclasses.asdict(report)))["events"] == 12


def test_the_report_reads_as_lines(imported):
    assert imported.report.lines() == [
        "2 users, 4 items, 9 interactions (of a user 4.50 on average, 4.5 in the median)",
        "  read: 12 events; 2 exact duplicates dropped, 1 put in the order of time",
        "  2-core filter: 1 events dropped, with 1 users and 1 items",
        "  ties: 4 events share their time with another of their user; kept in the order of the file",
        "  ties: they decide the test or validation item of 1 users",
        "  repeats: 1 interactions with an item that the user had before, kept",
        "  items without text: 1, kept",
    ]
    quiet = build_histories(events("u a 1\nu b 2\nu c 3"), source=FILE, core=1).report
    assert len(quiet.lines()) == 2


@pytest.mark.parametrize(("times", "decided"), [("1 2 3 3", 1), ("1 2 2 3", 1), ("1 1 2 3", 0), ("1 1 1 1", 1)])
def test_a_tie_decides_when_it_is_with_the_test_or_the_validation_item(times, decided):
    rows = "\n".join(f"u {item} {time}" for item, time in zip("abcd", times.split(), strict=True))
    assert build_histories(events(rows), source=FILE, core=1).report.tied_users == decided


def test_users_with_fewer_than_three_are_kept_if_the_core_lets_them():
    rows = "u a 1\nu b 2\nu c 3\nv a 1\nw b 1\nw c 1"
    report = build_histories(events(rows), source=FILE, core=1).report
    assert (report.users, report.tied_events, report.tied_users) == (3, 2, 0)


def test_sorted_ties_in_the_order_of_the_file_are_warned_of():
    rows = "\n".join(f"u{user} {item} 1" for user in range(10) for item in (1, 2, 3, 4))
    with pytest.warns(UserWarning, match="decide the test or validation item of 10 of 10 users.*ties = random"):
        report = build_histories(events(rows), source=FILE, core=1, ties="file").report
    assert "kept in the order of the file" in report.lines()[2]
    report = build_histories(events(rows), source=FILE, core=1).report
    assert report.lines()[2].endswith("ordered by a hash, as the file has them sorted by item id")
    report = build_histories(events(), source=FILE, core=1, ties="random").report
    assert report.lines()[2].endswith("ordered by a hash")


def test_without_events_or_users_there_is_an_error():
    with pytest.raises(InputError, match=r"log\.tsv: no events"):
        build_histories(events(""), source=FILE)
    with pytest.raises(InputError, match="three interactions is left of 12 events, 3 users and 5 items by the 5-core"):
        build_histories(events(), source=FILE)
    with pytest.raises(InputError, match="a core of 0; expected at least 1"):
        build_histories(events(), source=FILE, core=0)
    with pytest.raises(InputError, match="left of 2 events, 1 users and 2 items; expected one item each"):
        build_histories(events("u a 0\nu b 1"), source=FILE, core=1)


def test_texts_of_other_items_are_an_error_and_no_texts_a_warning():
    histories = build_histories(events(), source=FILE, core=2)
    with pytest.raises(InputError, match=r"items: no text for any of the 4 items of log\.tsv"):
        histories.with_texts({"z": ItemText("Z", "Z.")}, name="log", files=[Path("items")])
    with pytest.warns(UserWarning, match="semantic ids need texts, or vectors in embeddings.npy"):
        report = histories.with_texts({}, name="log", files=[]).report
    assert report.items_without_text == 4


def test_what_is_written_reads_the_same(imported, tmp_path):
    write_interactions(imported.interactions, tmp_path / "log")
    with pytest.warns(UserWarning, match=r"1 of 4 documents have neither|1 of 9 interactions"):
        again = read_interactions(tmp_path / "log")
    assert again.fingerprint == imported.interactions.fingerprint
