"""RecBole's atomic files."""

import pytest

from genret_jax.data.sources.recbole import recbole
from genret_jax.errors import InputError

INTER = "rating:float\titem_id:token\ttimestamp:float\tuser_id:token\n"
ROWS = "5\ti1\t30\tu1\n4\ti2\t10\tu1\n3\ti3\t20.5\tu1\n5\ti1\t1\tu2\n5\ti2\t2\tu2\n5\ti3\t3\tu2\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\trank:float\tclass:token_seq\tprice:float\n"
ITEMS = "i2\tTwo Towers\t2002\t7\tFantasy War\t\ni1\tOne\t\t\t\t3.5\ni9\tNine\t\t\t\t\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.inter").write_text(INTER + ROWS)
    (tmp_path / "shop.item").write_text(ITEM + ITEMS)
    (tmp_path / "shop.user").write_text("user_id:token\nu1\n")
    return tmp_path


def fails(folder):
    with pytest.raises(InputError) as caught:
        recbole(folder, core=1)
    return str(caught.value)


def test_columns_are_found_by_their_names(folder):
    found, report = recbole(folder, core=2)
    assert found.name == "shop"
    assert [[found.items.doc_ids[i] for i in found.history(user)] for user in (0, 1)] == [
        ["i2", "i3", "i1"],
        ["i1", "i2", "i3"],
    ]
    assert dict(zip(found.items.doc_ids, found.items.texts, strict=True)) == {
        "i1": "One. Price: 3.5.",
        "i2": "Two Towers. Release year: 2002. Class: Fantasy War.",
        "i3": "",
    }
    assert found.items.titles == ("One", "Two Towers", "")
    assert (report.items_without_text, report.out_of_order) == (1, 1)


def test_items_need_no_title(folder):
    (folder / "shop.item").write_text("genre:token_seq\titem_id:token\nWar\ti1\n")
    found, _ = recbole(folder, core=1)
    assert (found.items.titles[0], found.items.texts[0]) == ("", "Genre: War.")


def test_without_an_item_file_there_are_no_texts(folder):
    (folder / "shop.item").unlink()
    with pytest.warns(UserWarning, match="no file with texts"):
        assert recbole(folder, core=1).report.items_without_text == 3


def test_a_file_of_other_items_is_reported(folder):
    (folder / "shop.item").write_text(ITEM + "x1\tX\t\t\t\t\n")
    assert "no text for any of the 3 items" in fails(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "shop.inter: the file is empty"),
        (INTER, "shop.inter: no events"),
        ("u1 i1 3\n", "shop.inter:1: no column 'user_id' in the header 'u1 i1 3'"),
        ("userid:token\titem_id:token\ttimestamp:float\n", "rename the column (did you mean 'userid'?)"),
        ("user_id:token\titem_id:token\n", "no column 'timestamp'"),
        (INTER + "5\ti1\t30\n", "shop.inter:2: 3 columns in"),
        (INTER + "5\ti1\tnoon\tu1\n", "shop.inter:2: 'timestamp' is 'noon'"),
        (INTER + "5\t\t30\tu1\n", "shop.inter:2: 'item_id' is ''"),
    ],
)
def test_what_is_wrong_with_events_is_reported(content, message, folder):
    (folder / "shop.inter").write_text(content)
    assert message in fails(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "shop.item: the file is empty"),
        ("id:token\ttitle:token_seq\ni1\tOne\n", "shop.item:1: no column 'item_id'"),
        (ITEM + "i1\n", "shop.item:2: 1 column in 'i1'; expected 6 separated by tabs, as in the header"),
    ],
)
def test_what_is_wrong_with_items_is_reported(content, message, folder):
    (folder / "shop.item").write_text(content)
    assert message in fails(folder)


def test_there_is_one_file_of_events(folder):
    (folder / "other.inter").write_text(INTER + ROWS)
    assert "2 .inter files (other.inter, shop.inter)" in fails(folder)
    for file in folder.iterdir():
        file.unlink()
    assert "0 .inter files; expected one" in fails(folder)
    assert "the folder is missing" in fails(folder / "nowhere")
