"""Amazon reviews (McAuley et al.), crawls of 2014, 2018 and 2023: reviews as events, metadata as texts of items.

Both files hold one record a line and may be packed by gzip. The metadata of 2014 are Python dictionaries instead of
JSON. The crawls have different field names. A ``parent_asin`` in a review (2023: the product with all its colours and
sizes) is the item.

Times of 2014 and 2018 are days, and the files are sorted by item. The sequences of S3-Rec, which P5 and TIGER use, are
sorted by time alone, so their ties are in the order of item ids; ``ties="file"`` gives the same order.
"""

import ast
import itertools
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from genret_jax.data.records import Place, id_field, json_object, read_json_lines, read_lines
from genret_jax.data.sources.events import Event, Ties, collect_events, time_of
from genret_jax.data.sources.importing import Imported, ItemText, build_histories, item_text

_USER, _ITEM, _TIME = ("reviewerID", "user_id"), ("parent_asin", "asin"), ("unixReviewTime", "timestamp")
_BRAND, _CATEGORIES = ("brand", "store"), ("categories", "category")
# Some prices of the 2018 crawl are scripts and style sheets.
_PRICE = re.compile(r"\$?\d[\d,]*(\.\d+)?( ?- ?\$?\d[\d,]*(\.\d+)?)?")
# The start of nearly every line of 2014. It is faster to match than to parse millions of lines for thousands of items.
_PYTHON_ASIN = re.compile(r"\{'asin': '(\w+)'")


def amazon(reviews: Path, metadata: Path, *, core: int = 5, price: bool = True, ties: Ties = "auto") -> Imported:
    """Read reviews as interactions with items whose text is one sentence of title, price, brand and categories.

    Args:
        reviews: File of reviews; a review is an event, whatever its rating.
        metadata: File of metadata of the items.
        core: Least number of events of a user and of an item.
        price: Put the price into the text, as TIGER does; prices are those of the day of the crawl.
        ties: Order of reviews of one user at one time (2014 and 2018: on one day).

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    histories = build_histories(collect_events(_read_reviews(reviews)), source=reviews, core=core, ties=ties)
    texts = read_metadata(metadata, set(histories.item_ids), price=price)
    return histories.with_texts(texts, name=reviews.name.split(".")[0], files=[metadata])


def _read_reviews(path: Path) -> Iterator[Event]:
    for place, record in read_json_lines(path):
        user, item = (id_field(record, _name_of(record, names, place), place) for names in (_USER, _ITEM))
        time = _name_of(record, _TIME, place)
        yield Event(user, item, time_of(record[time], f"'{time}'", place))


def _name_of(record: Mapping[str, Any], names: tuple[str, ...], place: Place) -> str:
    """Return the first of some names that a record has."""
    if found := next((name for name in names if name in record), None):
        return found
    raise place.error(
        f"a record without {' or '.join(map(repr, names))} (it has {', '.join(map(repr, record)) or 'no fields'})",
        expected="a review of the Amazon crawls of 2014, 2018 or 2023",
        fix="check that this is the file of reviews, and not of metadata or ratings",
    )


def read_metadata(path: Path, wanted: Collection[str], *, price: bool = True) -> dict[str, ItemText]:
    """Return the texts of some items, each from the first record of the item.

    Args:
        path: File of metadata.
        wanted: External ids of the items.
        price: Put the price into the text.

    Raises:
        InputError: Naming file and line, if a record cannot be read.
    """
    texts: dict[str, ItemText] = {}
    with warnings.catch_warnings():
        for category in (SyntaxWarning, DeprecationWarning):  # for "\d" in texts, by Python version
            warnings.simplefilter("ignore", category)
        for line, text in read_lines(path):
            asin = _PYTHON_ASIN.match(text)
            if asin and asin[1] not in wanted:
                continue
            place = Place(path, line)
            record = _python_record(text, place) if text.startswith("{'") else json_object(text, place)
            item = id_field(record, _name_of(record, _ITEM, place), place)
            if item in wanted and item not in texts:
                texts[item] = _text_of(record, price)
    return texts


def _python_record(text: str, place: Place) -> dict[str, Any]:
    try:
        record = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise place.error(
            f"a broken Python dictionary ({error})",
            expected="one record a line, as JSON or as a Python dictionary",
            fix="repair this line; the file may have been cut off while it was written or downloaded",
        ) from None
    if not isinstance(record, dict):
        raise place.error("no dictionary", expected="one record a line", fix="repair this line")
    return record


def _text_of(record: Mapping[str, Any], price: bool) -> ItemText:
    title = " ".join(_strings(record.get("title")))
    brands = [text.removeprefix("by\n") for name in _BRAND for text in _strings(record.get(name))]
    categories = [text for name in _CATEGORIES for text in _strings(record.get(name))]
    fields = {
        "Price": _price(record.get("price")) if price else [],
        "Brand": brands[:1],
        # In the 2018 crawl a category with markup is followed by the rest of the page. Some titles are scripts, which
        # all call getTime.
        "Categories": itertools.takewhile(lambda text: "</span>" not in text, categories),
    }
    return item_text("" if "getTime" in title else title, fields)


def _strings(value: Any) -> list[str]:
    """Return all strings of a value: a string, a list of strings, or a list of lists."""
    if isinstance(value, str):
        return [value]
    return [text for part in value for text in _strings(part)] if isinstance(value, list) else []


def _price(value: Any) -> list[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [f"${value:.2f}"]
    text = value.strip() if isinstance(value, str) else ""
    if not _PRICE.fullmatch(text):
        return []
    return [text if text.startswith("$") else f"${text}"]
