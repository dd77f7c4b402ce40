"""Folders of items and histories: what is read, errors for each kind of damage, and the leave-one-out protocol."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from support.small_interactions import small_shop, three_users

from genret_jax.data.corpus import Corpus
from genret_jax.data.interactions import Interactions, is_interactions, read_interactions, write_interactions
from genret_jax.errors import InputError

ITEMS = [{"_id": item, "title": f"Letter {item}", "text": f"Letter {item} of five.", "asin": 1} for item in "abcde"]
SEQUENCES = "ann a b c d\nbob c a e\n"


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def folder(tmp_path):
    """Make a small folder that is in order; tests damage one file of it."""
    (tmp_path / "items.jsonl").write_text(json_lines(ITEMS))
    (tmp_path / "sequences.txt").write_text(SEQUENCES)
    return tmp_path


def fails(folder):
    with pytest.raises(InputError) as caught:
        read_interactions(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_reads_items_and_histories(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_interactions(folder)
    assert (found.name, found.items.source) == (folder.name, str(folder))
    assert found.items.doc_ids == tuple("abcde")
    assert found.items.titles[0] == "Letter a"
    assert found.user_ids == ("ann", "bob")
    assert found.user_index == {"ann": 0, "bob": 1}
    assert found.offsets.tolist() == [0, 4, 7]
    assert found.item.tolist() == [0, 1, 2, 3, 2, 0, 4]
    assert found.history(1).tolist() == [2, 0, 4]
    assert (found.num_users, found.lengths.tolist()) == (2, [4, 3])


def test_accepts_windows_line_ends_tabs_and_blank_lines(folder):
    (folder / "sequences.txt").write_bytes(
        b"\xef\xbb\xbf" + SEQUENCES.replace(" ", "\t").replace("\n", "\r\n\n").encode()
    )
    assert read_interactions(folder).item.tolist() == [0, 1, 2, 3, 2, 0, 4]


def test_a_folder_is_known_by_either_file(folder):
    assert is_interactions(folder)
    assert is_interactions(str(folder))
    (folder / "items.jsonl").unlink()
    assert is_interactions(folder)
    (folder / "sequences.txt").unlink()
    assert not is_interactions(folder)
    assert not is_interactions(folder / "nowhere")


def test_of_each_user_the_last_is_the_test_and_the_one_before_the_validation():
    found = three_users()  # ann: a b c d; bob: c a e; cyd: b a
    assert found.evaluated_users.tolist() == [0, 1]
    assert found.item[found.targets("test")].tolist() == [3, 4]
    assert found.item[found.targets("validation")].tolist() == [2, 0]
    of_training = [
        found.item[begin:end].tolist() for begin, end in zip(found.offsets[:-1], found.training_ends(), strict=True)
    ]
    assert of_training == [[0, 1], [2], [1, 0]]  # who is too short to be evaluated is for training


def test_histories_are_what_is_known_before_the_item_to_be_predicted():
    found = three_users()
    assert found.histories("test", 4).tolist() == [[0, 1, 2, -1], [2, 0, -1, -1]]
    assert found.histories("validation", 4).tolist() == [[0, 1, -1, -1], [2, -1, -1, -1]]
    assert found.histories("test", 2).tolist() == [[1, 2], [2, 0]]
    assert found.histories("test", 1).tolist() == [[2], [0]]
    assert found.histories("test", 1).dtype == np.int32


def test_histories_never_hold_what_comes_after():
    shop = small_shop()
    for split, held_out in (("test", 1), ("validation", 2)):
        for row, user in zip(shop.histories(split, 30), shop.evaluated_users.tolist(), strict=True):
            assert row[row >= 0].tolist() == shop.history(user)[:-held_out].tolist()


def test_the_fingerprint_changes_with_everything_that_counts():
    found = three_users()
    other_item = found.item.copy()
    other_item[0] = 4
    other_offsets = found.offsets.copy()
    other_offsets[1] -= 1
    title = dataclasses.replace(found.items, titles=("Another", *found.items.titles[1:]))
    changed = [
        dataclasses.replace(found, items=title),
        dataclasses.replace(found, user_ids=("eve", *found.user_ids[1:])),
        dataclasses.replace(found, item=other_item),
        dataclasses.replace(found, offsets=other_offsets),
    ]
    assert len({found.fingerprint, *(other.fingerprint for other in changed)}) == 5
    assert three_users().fingerprint == found.fingerprint


def test_what_is_written_reads_the_same(tmp_path):
    shop = small_shop()
    write_interactions(shop, tmp_path / "shop")
    again = read_interactions(tmp_path / "shop")
    assert isinstance(again, Interactions)
    assert again.fingerprint == shop.fingerprint
    assert again.name == "shop"
    with pytest.raises(InputError, match="the output already exists"):
        write_interactions(shop, tmp_path / "shop")


def test_an_interrupted_write_leaves_nothing(tmp_path):
    broken = dataclasses.replace(three_users(), item=np.array([0, 1, 2, 99, 0, 0, 0, 0, 0], np.int32))
    with pytest.raises(IndexError):
        write_interactions(broken, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sequences", "line", "found"),
    [
        ("ann a b c\nbob\n", 2, "user 'bob' without items"),
        ("ann a b c\nbob a b c\n\nann d\n", 4, "user 'ann' again, first on line 1"),
        ("ann a b c\nbob a x c\n", 2, "unknown item 'x'"),
        ("", None, "no users"),
        ("ann a b\nbob c\n", None, "no user has three items"),
    ],
)
def test_what_is_wrong_with_histories_is_reported_with_its_line(sequences, line, found, folder):
    (folder / "sequences.txt").write_text(sequences)
    error = fails(folder)
    assert (error.file, error.line) == (folder / "sequences.txt", line)
    assert error.found.startswith(found)
    assert error.expected
    assert error.fix


def test_a_misspelt_item_is_reported_with_the_nearest(folder):
    (folder / "items.jsonl").write_text(json_lines([{"_id": "apple", "text": "x"}, {"_id": "pear", "text": "y"}]))
    (folder / "sequences.txt").write_text("ann apple pear aple\n")
    assert "did you mean 'apple'?" in fails(folder).found


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("", "no documents"),
        (json_lines([ITEMS[0], ITEMS[0]]), "'_id' 'a' again, first on line 1"),
        (json_lines([{"text": "no id"}]), "a record without '_id'"),
        (json_lines([{"_id": 7, "text": "x"}]), "'_id' is a number"),
        ('{"_id": "a"', "broken JSON"),
    ],
)
def test_what_is_wrong_with_items_is_reported(items, found, folder):
    (folder / "items.jsonl").write_text(items)
    error = fails(folder)
    assert error.file == folder / "items.jsonl"
    assert error.found.startswith(found)


@pytest.mark.parametrize("name", ["items.jsonl", "sequences.txt"])
def test_both_files_must_be_there(name, folder):
    (folder / name).unlink()
    error = fails(folder)
    assert (error.file, error.found) == (folder / name, "the file is missing")


def test_a_folder_that_is_none_is_reported(folder):
    assert fails(folder / "nowhere").found == "the folder is missing"
    error = fails(folder / "items.jsonl")
    assert error.found == "this is not a folder"
    assert "genret corpus amazon" in error.fix


def test_users_with_fewer_than_three_items_are_warned_of(folder):
    (folder / "sequences.txt").write_text(SEQUENCES + "cyd b a\ndan a\n")
    with pytest.warns(UserWarning, match=r"2 of 4 users have fewer than three items \(first: user 'cyd'\)"):
        found = read_interactions(folder)
    assert found.evaluated_users.tolist() == [0, 1]


def test_items_that_come_twice_are_warned_of(folder):
    (folder / "sequences.txt").write_text(SEQUENCES + "cyd b a b b\n")
    with pytest.warns(UserWarning, match="2 of 11 interactions are with an item that the user had before"):
        assert read_interactions(folder).history(2).tolist() == [1, 0, 1, 1]


def test_items_without_text_are_kept_with_a_warning(folder):
    bare = [{"_id": item, "text": ""} for item in "abcde"]
    (folder / "items.jsonl").write_text(json_lines([*ITEMS[:4], bare[4]]))
    with pytest.warns(UserWarning, match=r"1 of 5 documents have neither title nor text \('e'\)"):
        assert read_interactions(folder).items.empty_documents == (4,)
    (folder / "items.jsonl").write_text(json_lines(bare))
    with pytest.warns(UserWarning, match="5 of 5 documents have neither title nor text"):
        assert len(read_interactions(folder).items) == 5


IDS = ["a b", 'say "x"', '"quoted"', "\t", "é", "x\\", "a%20b", "\n", "[", "\u2028"]


def test_ids_may_be_any_strings(tmp_path):
    shop = Interactions(
        items=Corpus(name="shop", doc_ids=tuple(IDS), titles=tuple("0123456789"), texts=("",) * len(IDS)),
        user_ids=("the user", '"'),
        offsets=np.array([0, 10, 13]),
        item=np.array([*range(10), 3, 0, 7], np.int32),
    )
    write_interactions(shop, tmp_path / "shop")
    assert read_interactions(tmp_path / "shop").fingerprint == shop.fingerprint


def test_plain_ids_are_written_as_before(tmp_path):
    write_interactions(three_users(), tmp_path / "letters")
    assert (tmp_path / "letters" / "sequences.txt").read_text() == "ann a b c d\nbob c a e\ncyd b a\n"


def test_an_empty_id_is_refused(folder):
    (folder / "sequences.txt").write_text('ann a "" c\n')
    assert fails(folder).found == "an empty id"
