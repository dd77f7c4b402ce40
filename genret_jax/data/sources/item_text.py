"""The text of an item: its title and what else is known of it, as one line."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from genret_jax.data.text.words import valid_unicode

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


class ItemText(NamedTuple):
    """What is known of an item.

    Attributes:
        title: Its name; may be empty.
        text: Title and fields together; may be empty.
    """

    title: str
    text: str


def plain(text: str) -> str:
    """Return text of a web page on one line: entities decoded, tags left out, white space single."""
    return " ".join(valid_unicode(html.unescape(_TAG.sub(" ", text))).split())


def item_text(title: str, fields: Mapping[str, str | Iterable[str]]) -> ItemText:
    """Return ``"Title. Brand: brand. Categories: one, two."``, as TIGER makes the sentence of an item.

    Section 4.1 of Rajput et al. 2023 (arXiv 2305.05065) takes title, price, brand and category.

    Args:
        title: The name; may be empty.
        fields: Values by the label that stands before them; of several values each counts once. Empty ones are left
            out.
    """
    title = plain(title)
    parts = [title] if title else []
    for label, value in fields.items():
        values = [value] if isinstance(value, str) else value
        joined = ", ".join(dict.fromkeys(filter(None, map(plain, values))))
        if joined:
            parts.append(f"{label}: {joined}")
    return ItemText(title, " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts))
