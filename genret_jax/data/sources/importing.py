"""Shared parts of importers: texts of items, and histories made of events with a report of every change."""

import dataclasses
import html
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.interactions import HELD_OUT, Interactions, count_repeats
from genret_jax.data.sources.events import (
    Events,
    Ties,
    chronological,
    count_out_of_order,
    distinct,
    k_core,
    ties_with_next,
)
from genret_jax.data.text.words import valid_unicode
from genret_jax.errors import InputError

_LEAST = HELD_OUT["train"] + 1  # events of a user who can be evaluated and trained on
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Counts of what an import read, changed, and left.

    Attributes:
        source: File of the events.
        events: Events in the file.
        duplicates: Events dropped because an earlier one has the same user, item and time.
        out_of_order: Events that the file has after a later one of the same user.
        core: Least number of events of a user and of an item.
        dropped_events: Events dropped by that filter.
        dropped_users: Users dropped by it.
        dropped_items: Items dropped by it.
        tie_order: Order of events of one user at one time: that of the file, or of a hash.
        ties_sorted: Whether the file has nearly all ties sorted by item id.
        tied_events: Remaining events that share user and time with another.
        tied_users: Users whose test or validation item is decided by a tie.
        users: Remaining users.
        items: Remaining items.
        interactions: Remaining events.
        repeats: Remaining events with an item that the user had before.
        mean_length: Mean number of items of a user.
        median_length: Median number of items of a user.
        items_without_text: Remaining items without any text.
    """

    source: str
    events: int
    duplicates: int = 0
    out_of_order: int = 0
    core: int = 1
    dropped_events: int = 0
    dropped_users: int = 0
    dropped_items: int = 0
    tie_order: Literal["file", "random"] = "file"
    ties_sorted: bool = False
    tied_events: int = 0
    tied_users: int = 0
    users: int
    items: int
    interactions: int
    repeats: int = 0
    mean_length: float
    median_length: float
    items_without_text: int = 0

    def lines(self) -> list[str]:
        """Return the report as lines to print."""
        lines = [
            f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions "
            f"(of a user {self.mean_length:.2f} on average, {self.median_length:g} in the median)",
            f"  read: {self.events:,} events; {self.duplicates:,} exact duplicates dropped, "
            f"{self.out_of_order:,} put in the order of time",
        ]
        if self.core > 1:
            lines.append(
                f"  {self.core}-core filter: {self.dropped_events:,} events dropped, with {self.dropped_users:,} users "
                f"and {self.dropped_items:,} items"
            )
        if self.tied_events:
            lines += [
                f"  ties: {self.tied_events:,} events share their time with another of their user; {self._rule()}"
            ]
            lines.append(f"  ties: they decide the test or validation item of {self.tied_users:,} users")
        if self.repeats:
            lines.append(f"  repeats: {self.repeats:,} interactions with an item that the user had before, kept")
        if self.items_without_text:
            lines.append(f"  items without text: {self.items_without_text:,}, kept")
        return lines

    def _rule(self) -> str:
        if self.tie_order == "file":
            return "kept in the order of the file"
        return "ordered by a hash" + (", as the file has them sorted by item id" if self.ties_sorted else "")


class Imported(NamedTuple):
    """Result of an importer.

    Attributes:
        interactions: Items and histories.
        report: The changes.
    """

    interactions: Interactions
    report: ImportReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
    """Histories whose items have no texts yet.

    Attributes:
        events: Events of one user after the other, each oldest first.
        report: The changes.
    """

    events: Events
    report: ImportReport

    @property
    def item_ids(self) -> tuple[str, ...]:
        """External ids of the remaining items."""
        return self.events.item_ids

    def with_texts(self, texts: Mapping[str, ItemText], *, name: str, files: Sequence[Path]) -> Imported:
        """Give the items their texts; items without one keep an empty text.

        If there is no file of texts, a warning names what needs them.

        Args:
            texts: Texts by external item id; other items are ignored.
            name: Name of the set in reports.
            files: The files of the texts.

        Raises:
            InputError: If there are files, but no item has a text.
        """
        titles, bodies = zip(*(texts.get(item, ItemText("", "")) for item in self.item_ids), strict=True)
        items = Corpus(name=name, doc_ids=self.item_ids, titles=titles, texts=bodies, source=self.report.source)
        lengths = np.bincount(self.events.user)
        interactions = Interactions.of(items, self.events.user_ids, lengths, self.events.item)
        report = dataclasses.replace(self.report, items_without_text=len(items.empty_documents))
        if report.items_without_text == report.items:
            _no_texts(report, files)
        return Imported(interactions, report)


def _no_texts(report: ImportReport, files: Sequence[Path]) -> None:
    if files:
        raise InputError(
            f"no text for any of the {report.items:,} items of {report.source}",
            file=files[0],
            expected="titles or other texts for the same item ids",
            fix="check that the files belong together",
        )
    warnings.warn(
        f"{report.source}: no file with texts of items; semantic ids need texts, or vectors in embeddings.npy "
        "beside the items; random ids need neither",
        stacklevel=4,
    )


def build_histories(events: Events, *, source: Path, core: int = 5, ties: Ties = "auto") -> Histories:
    """Make histories of events: drop exact duplicates and rare users and items, and order by time.

    Args:
        events: Events in the order of the file.
        source: The file, for the report and for errors.
        core: Least number of events of a user and of an item, see :func:`genret_jax.data.sources.events.k_core`.
        ties: Order of events of one user at one time, see :func:`genret_jax.data.sources.events.chronological`.

    Raises:
        InputError: If there are no events, or no user keeps three.
    """
    if core < 1:
        raise InputError(f"a core of {core}", expected="at least 1, which keeps everything", fix="the usual core is 5")
    if not len(events):
        raise InputError("no events", file=source, expected="one event a line", fix="check how the file was made")
    once = events.only(distinct(events))
    left = once.only(k_core(once.user, once.item, core))
    lengths = np.bincount(left.user)
    if not (lengths >= _LEAST).any():
        filtered = f" by the {core}-core filter" if core > 1 else ""
        raise InputError(
            f"no user with three interactions is left of {len(events):,} events, {len(events.user_ids):,} users and "
            f"{len(events.item_ids):,} items{filtered}",
            file=source,
            expected="one item each for test, validation and training",
            fix="give a smaller core, or more events" if core > 1 else "check that each line holds all items of a user",
        )
    histories, tie_order, ties_sorted = chronological(left, ties)
    tied = ties_with_next(histories)
    last = (np.cumsum(lengths) - 1)[lengths >= _LEAST]
    report = ImportReport(
        source=str(source),
        events=len(events),
        duplicates=len(events) - len(once),
        out_of_order=count_out_of_order(once),
        core=core,
        dropped_events=len(once) - len(left),
        dropped_users=len(once.user_ids) - len(left.user_ids),
        dropped_items=len(once.item_ids) - len(left.item_ids),
        tie_order=tie_order,
        ties_sorted=ties_sorted,
        tied_events=int((np.append(tied, False) | np.append(False, tied)).sum()),
        # A tie joins the last item of a user to the one before it, or that one to its predecessor.
        tied_users=int((tied[last - 1] | tied[last - 2]).sum()),
        users=len(histories.user_ids),
        items=len(histories.item_ids),
        interactions=len(histories),
        repeats=count_repeats(histories.user, histories.item),
        mean_length=float(lengths.mean()),
        median_length=float(np.median(lengths)),
    )
    _warn_of_leak(report)
    return Histories(events=histories, report=report)


def _warn_of_leak(report: ImportReport) -> None:
    if report.ties_sorted and report.tie_order == "file" and report.tied_users:
        warnings.warn(
            f"{report.source}: events of one user at one time are sorted by item id, and decide the test or validation "
            f"item of {report.tied_users:,} of {report.users:,} users; scores will be too good for models that can see "
            "it (next: ties = random)",
            stacklevel=3,
        )
