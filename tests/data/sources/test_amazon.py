"""Amazon reviews and metadata as the three crawls wrote them."""

import gzip
import json
import warnings

import pytest

from genret_jax.data.sources.amazon import amazon, read_metadata
from genret_jax.errors import InputError

# Users 1 to 3, items 1 to 3, each user with each item; user 2 in the opposite order, all on one day for user 3.
DAYS = {"A1": (1, 2, 3), "A2": (3, 2, 1), "A3": (5, 5, 5)}
META_2014 = """\
{'asin': 'B001', 'title': 'O\\'Keeffe\\'s Balm', 'price': 8.99, 'brand': 'O\\'Keeffe', 'categories': [['Beauty', 'Skin Care'], ['Beauty', 'Hands']], 'related': {'also_bought': ['B002']}}
{'asin': 'B009', 'title': 'never parsed, so it may be broken'
{'asin': 'B002', 'categories': [['Beauty']], 'title': "Head &amp; \\d Shoulders", 'salesRank': {'Beauty': 3}}
{'title': 'Soap', 'asin': 'B003', 'brand': ''}
"""  # noqa: E501
META_2018 = [
    {"asin": "B001", "title": "Balm", "brand": "Keeffe", "category": ["Beauty", "Hands"], "price": "$8.99"},
    {"asin": "B002", "title": "var a = (new Date()).getTime();", "brand": "", "category": [], "price": ".a-box{x}"},
    {
        "asin": "B003",
        "title": "Soap",
        "brand": "by\n    S",
        "category": ["Beauty", "</span></span> 100% Cotton", "Imported"],
        "price": "$1.00 - $2,000.50",
    },
    {"asin": "B001", "title": "Balm again"},
]
META_2023 = [
    {"parent_asin": "B001", "title": "Balm", "store": "Keeffe", "categories": ["Beauty", "Hands"], "price": 8.9},
    {"parent_asin": "B002", "title": "Soap", "store": None, "categories": [], "price": None},
    {"parent_asin": "B003", "title": "Comb", "store": "", "categories": ["Beauty"], "price": "from 14.99"},
]


def reviews_2014():
    """Grouped by item, as Amazon's files are."""
    rows = [(f"B00{item + 1}", user, days[item]) for item in range(3) for user, days in DAYS.items()]
    return [
        {"reviewerID": user, "asin": item, "overall": 5.0, "reviewText": "fine", "unixReviewTime": day * 86400}
        for item, user, day in rows
    ]


def reviews_2023():
    return [
        {
            "user_id": record["reviewerID"],
            "asin": f"{record['asin']}-red",
            "parent_asin": record["asin"],
            "timestamp": record["unixReviewTime"] * 1000,
        }
        for record in reviews_2014()
    ]


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews_Beauty_5.json.gz"
    path.write_bytes(gzip.compress(json_lines(reviews_2014()).encode()))
    return path


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "meta_Beauty.json.gz"
    path.write_bytes(gzip.compress(META_2014.encode()))
    return path


def histories(interactions):
    return {
        user: [interactions.items.doc_ids[i] for i in interactions.history(number)]
        for number, user in enumerate(interactions.user_ids)
    }


def test_the_crawl_of_2014(reviews, metadata):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, report = amazon(reviews, metadata, core=3)
    assert found.name == "reviews_Beauty_5"
    assert histories(found) == {
        "A1": ["B001", "B002", "B003"],
        "A2": ["B003", "B002", "B001"],
        "A3": ["B001", "B002", "B003"],
    }
    assert found.items.titles == ("O'Keeffe's Balm", r"Head & \d Shoulders", "Soap")
    assert found.items.texts == (
        "O'Keeffe's Balm. Price: $8.99. Brand: O'Keeffe. Categories: Beauty, Skin Care, Hands.",
        r"Head & \d Shoulders. Categories: Beauty.",
        "Soap.",
    )
    assert found.items.document_text(0) == found.items.texts[0]
    assert (report.events, report.out_of_order, report.tied_users) == (9, 2, 1)


def test_the_crawl_of_2018(reviews, tmp_path):
    metadata = tmp_path / "meta.json"
    metadata.write_text(json_lines(META_2018))
    found, report = amazon(reviews, metadata, core=3)
    assert found.items.texts == (
        "Balm. Price: $8.99. Brand: Keeffe. Categories: Beauty, Hands.",
        "",
        "Soap. Price: $1.00 - $2,000.50. Brand: S. Categories: Beauty.",
    )
    assert report.items_without_text == 1


def test_the_crawl_of_2023_goes_by_the_parent_of_variants(tmp_path):
    reviews, metadata = tmp_path / "Beauty.jsonl", tmp_path / "meta_Beauty.jsonl"
    reviews.write_text(json_lines(reviews_2023()))
    metadata.write_text(json_lines(META_2023))
    found, _ = amazon(reviews, metadata, core=3)
    assert found.name == "Beauty"
    assert histories(found)["A2"] == ["B003", "B002", "B001"]
    assert found.items.texts == (
        "Balm. Price: $8.90. Brand: Keeffe. Categories: Beauty, Hands.",
        "Soap.",
        "Comb. Categories: Beauty.",
    )


def test_the_price_can_be_left_out(reviews, metadata):
    found, _ = amazon(reviews, metadata, core=3, price=False)
    assert not any("Price" in text for text in found.items.texts)


def test_items_without_metadata_are_kept_without_text(reviews, metadata):
    metadata.write_text(META_2014.splitlines()[0])
    found, report = amazon(reviews, metadata, core=3)
    assert (len(found.items), report.items_without_text) == (3, 2)
    assert found.items.empty_documents == (1, 2)


def test_metadata_of_another_category_are_reported(reviews, metadata):
    metadata.write_text("{'asin': 'X1', 'title': 'Drill'}\n")
    with pytest.raises(InputError, match=r"meta_Beauty\.json\.gz: no text for any of the 3 items"):
        amazon(reviews, metadata, core=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"asin": "B1", "unixReviewTime": 1}', r":2: a record without 'reviewerID' or 'user_id' \(it has 'asin'"),
        ('{"reviewerID": "A", "unixReviewTime": 1}', ":2: a record without 'parent_asin' or 'asin'"),
        ('{"reviewerID": "A", "asin": "B1"}', ":2: a record without 'unixReviewTime' or 'timestamp'"),
        ('{"reviewerID": "A", "asin": "B1", "unixReviewTime": "09 13, 2014"}', ":2: 'unixReviewTime' is '09 13, 2014'"),
        ('{"reviewerID": "", "asin": "B1", "unixReviewTime": 1}', ":2: 'reviewerID' is ''"),
        ('{"reviewerID": 7, "asin": "B1", "unixReviewTime": 1}', ":2: 'reviewerID' is a number"),
        ('{"reviewerID": "A", ', ":2: broken JSON"),
        ("A,B1,5.0,1400000000", ":2: broken JSON"),
    ],
)
def test_what_is_wrong_with_a_review_is_reported_with_its_line(line, message, tmp_path, metadata):
    path = tmp_path / "reviews.json"
    path.write_text(json_lines(reviews_2014()[:1]) + line + "\n")
    with pytest.raises(InputError, match=message):
        amazon(path, metadata)


def test_reviews_cut_off_or_empty_are_reported(reviews, metadata):
    reviews.write_bytes(reviews.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"reviews_Beauty_5\.json\.gz:.*the gzip file ends early"):
        amazon(reviews, metadata)
    reviews.write_bytes(b"")
    with pytest.raises(InputError, match="no events"):
        amazon(reviews, metadata)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'asin': 'B001', 'title': ", "a broken Python dictionary"),
        ("{'asin': 'B001', 'title': open('x')}", "a broken Python dictionary"),
        ("{'asin', 'B001'}", "no dictionary"),
        ('{"asin": "B001", ', "broken JSON"),
        ("{'title': 'no id'}", "a record without 'parent_asin' or 'asin'"),
        ('["B001"]', "an array"),
    ],
)
def test_what_is_wrong_with_metadata_is_reported_with_its_line(line, message, tmp_path):
    path = tmp_path / "meta.json"
    path.write_text("{'asin': 'B009', 'title': 'x'}\n" + line)
    with pytest.raises(InputError, match=rf"meta\.json:2: {message}"):
        read_metadata(path, {"B001"})
