"""Events of a log (user, item, time), and the steps that make histories of them.

All steps are array code over columns, because a log may hold tens of millions of events.
"""

import contextlib
import dataclasses
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64

from genret_jax.data.examples.counter_random import hash_texts, splitmix64
from genret_jax.data.records import Place, require_id
from genret_jax.errors import InputError

#: Order of events of one user at one time: as in the file, by a hash, or automatic (:func:`chronological`).
Ties = Literal["auto", "file", "random"]
_TIMES = range(-(2**63), 2**63)
_MOST_TIME = 10**40
_ENOUGH_PAIRS, _SORTED_SHARE = 20, 0.95


class Event(NamedTuple):
    """One line of a log.

    Attributes:
        user: External user id.
        item: External item id.
        time: Time in any unit.
    """

    user: str
    item: str
    time: int | float | Decimal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Events:
    """Events as columns, e of them in the order of the file.

    Attributes:
        user_ids: External user ids in the order of their first event.
        item_ids: External item ids in the order of their first event.
        user: Positions in ``user_ids``.
        item: Positions in ``item_ids``.
        time: Times in any unit, or their ranks.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user: Int32[np.ndarray, " e"]
    item: Int32[np.ndarray, " e"]
    time: Int64[np.ndarray, " e"]

    def __len__(self) -> int:
        return len(self.user)

    def only(self, kept: Bool[np.ndarray, " e"]) -> "Events":
        """Return some of the events, with only their users and items."""
        users, user = np.unique(self.user[kept], return_inverse=True)
        items, item = np.unique(self.item[kept], return_inverse=True)
        return Events(
            user_ids=tuple(self.user_ids[i] for i in users.tolist()),
            item_ids=tuple(self.item_ids[i] for i in items.tolist()),
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            time=self.time[kept],
        )

    def ordered(self, order: Int64[np.ndarray, " e"]) -> "Events":
        """Return the same events in another order."""
        return dataclasses.replace(self, user=self.user[order], item=self.item[order], time=self.time[order])


class Chronology(NamedTuple):
    """Events in the order of user and time.

    Attributes:
        events: The events.
        tie_order: Order of events of one user at one time: that of the file, or of a hash.
        ties_sorted: Whether the file has nearly all such events sorted by item id.
    """

    events: Events
    tie_order: Literal["file", "random"]
    ties_sorted: bool


def events_of_rows(rows: Iterable[tuple[Place, Sequence[str]]], names: tuple[str, str, str]) -> Iterator[Event]:
    """Yield the events of a table whose first three columns are user, item and time.

    Args:
        rows: The cells of each row, with its place.
        names: Names of these columns in the file, for errors.

    Raises:
        InputError: If an id is empty, or a time is not a finite number.
    """
    user, item, time = (f"'{name}'" for name in names)
    for place, row in rows:
        yield Event(require_id(row[0], user, place), require_id(row[1], item, place), time_of(row[2], time, place))


def collect_events(events: Iterable[Event]) -> Events:
    """Turn events into columns that hold each id once.

    Whole times stay exact (nanoseconds since 1970 fit 64 bits, but not a float). If some time has a fraction, the
    column holds the rank of each time instead.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user, item, time = array("i"), array("i"), array("q")
    unfit: dict[int, int | float | Decimal] = {}  # times that are no 64-bit integers, by the number of the event
    for number, event in enumerate(events):
        user.append(users.setdefault(event.user, len(users)))
        item.append(items.setdefault(event.item, len(items)))
        whole = int(event.time)
        if whole != event.time or not _TIMES.start <= whole < _TIMES.stop:
            unfit[number], whole = event.time, 0
        time.append(whole)
    return Events(
        user_ids=tuple(users),
        item_ids=tuple(items),
        user=np.asarray(user, np.int32),
        item=np.asarray(item, np.int32),
        time=_ranks_of_times(time, unfit) if unfit else np.fromiter(time, np.int64, len(time)),
    )


def _ranks_of_times(times: array, others: Mapping[int, int | float | Decimal]) -> Int64[np.ndarray, " e"]:
    """Return the rank of each time among the distinct ones; Python compares numbers of different types exactly."""
    values: list[int | float | Decimal] = times.tolist()
    for number, value in others.items():
        values[number] = value
    rank = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values], np.int64)


def time_of(value: object, name: str, place: Place) -> int | float | Decimal:
    """Return a time from a number or its text, without rounding.

    Args:
        value: The value in the file.
        name: Its name in the file, for errors.
        place: Its place, for errors.

    Raises:
        InputError: If it is not a finite number.
    """
    time: int | float | Decimal = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        time = value
    elif isinstance(value, str):
        with contextlib.suppress(ValueError, ArithmeticError):
            written = Decimal(value.strip())
            time = written if written.is_finite() else time
    if not -_MOST_TIME < time < _MOST_TIME:  # NaN is not
        expected = "a time as a number, e.g. the seconds since 1970"
        raise place.error(f"{name} is {value!r}", expected=expected, fix="repair or remove the line")
    return time


def distinct(events: Events) -> Bool[np.ndarray, " e"]:
    """Mark the first of every group of events with the same user, item and time."""
    order = np.lexsort((events.item, events.time, events.user))
    repeats = np.ones(max(len(events) - 1, 0), bool)
    for column in (events.user, events.item, events.time):
        repeats &= column[order][1:] == column[order][:-1]
    kept = np.ones(len(events), bool)
    kept[order[1:][repeats]] = False
    return kept


def k_core(user: Int32[np.ndarray, " e"], item: Int32[np.ndarray, " e"], core: int) -> Bool[np.ndarray, " e"]:
    """Mark the largest set of events in which every user and every item has at least ``core`` events.

    Users and items with fewer are dropped until all have enough. The order does not matter, because the union of two
    such sets is such a set.

    Args:
        user: User of each event, numbered from 0.
        item: Item of each event, numbered from 0.
        core: Least number of events of a user and of an item; 1 keeps everything.
    """
    kept = np.arange(len(user))
    while True:
        enough_of_user = np.bincount(user[kept]) >= core
        enough_of_item = np.bincount(item[kept]) >= core
        stay = enough_of_user[user[kept]] & enough_of_item[item[kept]]
        if stay.all():
            mask = np.zeros(len(user), bool)
            mask[kept] = True
            return mask
        kept = kept[stay]


def count_out_of_order(events: Events) -> int:
    """Count the events that are older than the event before them in the file, of the same user."""
    order = np.argsort(events.user, kind="stable")
    user, time = events.user[order], events.time[order]
    return int(((user[1:] == user[:-1]) & (time[1:] < time[:-1])).sum())


def chronological(events: Events, ties: Ties) -> Chronology:
    """Order events by user, and then by time.

    The times do not order events of one user at one time (ties). The order of the file may, unless the file is sorted
    by item id, as Amazon's reviews and MovieLens's ``ratings.csv`` are. Then the last event of a tie, which is to be
    predicted, has the largest id, and a model that knows ids knows a part of the answer. With ``"auto"`` ties are
    ordered by a hash of user and item if nearly all of them are sorted by id, and else as in the file.

    Args:
        events: Events without exact duplicates.
        ties: ``"file"``, ``"random"`` (the hash), or ``"auto"``.

    Raises:
        InputError: If ``ties`` is anything else.
    """
    if ties not in get_args(Ties):
        raise InputError(f"ties {ties!r}", expected=f"one of {', '.join(get_args(Ties))}", fix="choose one of them")
    as_in_file = events.ordered(np.lexsort((events.time, events.user)))  # a stable sort
    is_sorted = _ties_are_sorted_by_item(as_in_file)
    if ties == "file" or (ties == "auto" and not is_sorted):
        return Chronology(as_in_file, "file", is_sorted)
    by_hash = np.lexsort((_hash_of_pair(events), events.time, events.user))
    return Chronology(events.ordered(by_hash), "random", is_sorted)


def ties_with_next(events: Events) -> Bool[np.ndarray, " pairs"]:
    """Mark the events that have the user and time of the next one; there is one mark fewer than events."""
    user, time = events.user, events.time
    return (user[1:] == user[:-1]) & (time[1:] == time[:-1])


def _ties_are_sorted_by_item(events: Events) -> bool:
    """Return whether nearly all neighbours in ties ascend, or descend, by item id; False for a few pairs only."""
    tied = ties_with_next(events)
    if tied.sum() < _ENOUGH_PAIRS:
        return False
    rank = _ranks(events.item_ids)[events.item]
    ascending = float((rank[1:] > rank[:-1])[tied].mean())
    return max(ascending, 1 - ascending) >= _SORTED_SHARE


def _ranks(ids: Sequence[str]) -> Int64[np.ndarray, " i"]:
    """Return the rank of each id among all: numbers by value, then other ids by text."""
    keys = [(0, int(text), "") if text.isdecimal() else (1, 0, text) for text in ids]
    ranks = np.empty(len(ids), np.int64)
    ranks[sorted(range(len(ids)), key=keys.__getitem__)] = np.arange(len(ids))
    return ranks


def _hash_of_pair(events: Events) -> UInt64[np.ndarray, " e"]:
    """Hash the ids of user and item, so that the result does not depend on the order of the file."""
    return splitmix64(hash_texts(events.user_ids)[events.user] ^ splitmix64(hash_texts(events.item_ids)[events.item]))
