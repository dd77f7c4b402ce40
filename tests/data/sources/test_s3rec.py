"""Sequences as S3-Rec and P5 publish them."""

import json

import pytest

from genret_jax.data.sources.s3rec import s3rec
from genret_jax.errors import InputError


@pytest.fixture
def sequences(tmp_path):
    path = tmp_path / "Beauty.txt"
    path.write_text("1 10 11 12\n2 12 10 13 10\n3 11\n")
    return path


@pytest.fixture
def titles(tmp_path):
    path = tmp_path / "titles.tsv"
    path.write_text("10\tRed Polish\n11\tBalm &amp; Oil\n99\tUnknown\n")
    return path


@pytest.fixture
def attributes(tmp_path):
    path = tmp_path / "item2attributes.json"
    path.write_text(json.dumps({"10": [3, 4], "12": ["Nails"], "99": []}))
    return path


def fails(*args, **options):
    with pytest.raises(InputError) as caught:
        s3rec(*args, **options)
    return str(caught.value)


def test_sequences_are_taken_as_they_are(sequences, titles, attributes):
    found, report = s3rec(sequences, titles=titles, attributes=attributes)
    assert (found.name, found.user_ids) == ("Beauty", ("1", "2", "3"))
    assert [found.items.doc_ids[i] for i in found.history(1)] == ["12", "10", "13", "10"]
    assert dict(zip(found.items.doc_ids, found.items.texts, strict=True)) == {
        "10": "Red Polish. Attributes: 3, 4.",
        "11": "Balm & Oil.",
        "12": "Attributes: Nails.",
        "13": "",
    }
    assert (report.interactions, report.repeats, report.tied_events, report.items_without_text) == (8, 1, 0, 1)


def test_ids_alone_are_allowed_with_a_warning(sequences):
    with pytest.warns(UserWarning, match="semantic ids need texts, or vectors"):
        assert s3rec(sequences).report.items_without_text == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Beauty.txt: no events"),
        ("1 10 11\n", "no user with three interactions"),
        ("1 10 11 12\n2\n", "Beauty.txt:2: user '2' without items"),
        ("1 10 11 12\n1 13\n", "Beauty.txt:2: user '1' again, first on line 1"),
    ],
)
def test_what_is_wrong_with_sequences_is_reported(content, message, sequences):
    sequences.write_text(content)
    assert message in fails(sequences)


def test_what_is_wrong_with_titles_is_reported(sequences, titles):
    titles.write_text("10\tRed\n11 Balm\n")
    assert "titles.tsv:2: no tab in '11 Balm'" in fails(sequences, titles=titles)
    titles.write_text("\tRed\n")
    assert "titles.tsv:1: the item is ''" in fails(sequences, titles=titles)
    titles.write_text("77\tRed\n")
    assert "titles.tsv: none of its ids, such as '77', is an item" in fails(sequences, titles=titles)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "an array; expected a JSON object"),
        ("{", "not valid JSON"),
        ('{"10": 3}', "the attributes of item '10' are '3'"),
        ('{"10": [[3]]}', "the attributes of item '10' are '[[3]]'"),
    ],
)
def test_what_is_wrong_with_attributes_is_reported(content, message, sequences, attributes):
    attributes.write_text(content)
    assert f"item2attributes.json: {message}" in fails(sequences, attributes=attributes)


def test_titles_in_another_order_are_refused(tmp_path):
    (tmp_path / "Beauty.txt").write_text("u a b c\n")
    (tmp_path / "titles.tsv").write_text("Soap\ta\nComb\tb\nOil\tc\n")
    (tmp_path / "attributes.json").write_text('{"a": ["red"]}')
    with pytest.raises(InputError, match=r"titles.tsv: none of its ids, such as 'Soap'"):
        s3rec(tmp_path / "Beauty.txt", titles=tmp_path / "titles.tsv", attributes=tmp_path / "attributes.json")
