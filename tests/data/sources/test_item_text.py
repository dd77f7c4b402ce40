"""The sentence of an item."""

import pytest

from genret_jax.data.sources.importing import ItemText, item_text, plain


def test_title_and_fields_become_one_line():
    found = item_text("Red Polish", {"Price": "$8.99", "Brand": ["OPI"], "Categories": ["Nails", "Makeup", "Nails"]})
    assert found == ItemText("Red Polish", "Red Polish. Price: $8.99. Brand: OPI. Categories: Nails, Makeup.")


def test_what_is_empty_is_left_out():
    assert item_text("", {"Brand": "", "Categories": []}) == ItemText("", "")
    assert item_text(" ", {"Brand": " OPI "}) == ItemText("", "Brand: OPI.")


@pytest.mark.parametrize(("title", "text"), [("Dr.", "Dr. A: b."), ("Why?", "Why? A: b."), ("Why", "Why. A: b.")])
def test_a_title_that_ends_a_sentence_gets_no_second_stop(title, text):
    assert item_text(title, {"A": "b"}).text == text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("Head &amp; Shoulders", "Head & Shoulders"),
        ("Dr. Scholl&#39;s\n  Bath", "Dr. Scholl's Bath"),
        ('<span class="a-size">Soap</span><br/>bar', "Soap bar"),
        ("for ages 3 < x and y > 4, I <3 it", "for ages 3 < x and y > 4, I <3 it"),
        ("half \ud83d a pair", "half ? a pair"),
    ],
)
def test_text_of_web_pages_becomes_plain(found, expected):
    assert plain(found) == expected
