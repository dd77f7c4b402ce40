"""The text of an item: its title and its other fields as one line."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from genret_jax.data.text.words import valid_unicode

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


class ItemText(NamedTuple):
    """Title and text of an item; both may be empty.

    Attributes:
        title: Its name.
        text: Title and fields together.
    """

    title: str
    text: str


def plain(text: str) -> str:
    """Return text of a web page as one line, with decoded entities and without tags and repeated white space."""
    return " ".join(valid_unicode(html.unescape(_TAG.sub(" ", text))).split())


def item_text(title: str, fields: Mapping[str, str | Iterable[str]]) -> ItemText:
    """Return the sentence of an item, such as ``"Title. Brand: brand. Categories: one, two."``.

    TIGER (Rajput et al. 2023, arXiv 2305.05065, section 4.1) takes title, price, brand and category.

    Args:
        title: The name; may be empty.
        fields: One value or several by label. Empty and repeated values are left out.
    """
    title = plain(title)
    parts = [title] if title else []
    for label, value in fields.items():
        values = [value] if isinstance(value, str) else value
        joined = ", ".join(dict.fromkeys(filter(None, map(plain, values))))
        if joined:
            parts.append(f"{label}: {joined}")
    return ItemText(title, " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts))
