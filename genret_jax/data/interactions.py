"""Items, and for each user the history of items: the data that a recommender learns from.

The folder layout has two files. ``items.jsonl`` holds one JSON object an item (``_id``, ``title``, ``text``; other
fields are ignored), ``sequences.txt`` one user a line, ``user item item …``, oldest item first. An id with white space
is written as a JSON string. Vectors of the items may be beside them as ``embeddings.npy``, row i for item i.

The protocol is the usual leave-one-out (Kang & McAuley 2018, arXiv 1808.09781, section IV-A): the last item of each
user is for the test, the one before it for validation, and all earlier ones are for training.
"""

import dataclasses
import os
import re
import warnings
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64

from genret_jax.data.corpus import Corpus, read_beir, read_documents, warn_of_empty_documents, write_documents
from genret_jax.data.records import (
    Place,
    check_ids,
    is_present,
    read_id,
    read_lines,
    require_folder,
    require_known,
    write_id,
)
from genret_jax.errors import InputError
from genret_jax.storage import atomic_folder, fingerprint

ITEMS, SEQUENCES, EMBEDDINGS = "items.jsonl", "sequences.txt", "embeddings.npy"
#: Number of items at the end of each history that a split does not see.
HELD_OUT = {"train": 2, "validation": 1, "test": 0}
_LEAST = 3  # items of a user who is evaluated: one each for test, validation and training
_FIELD = re.compile(r'"(?:[^"\\]|\\.)*"(?!\S)|\S+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """Users' histories over a corpus of items.

    Attributes:
        items: The items, as documents: ids, titles and texts.
        user_ids: External user ids, u of them.
        offsets: User i has ``item[offsets[i]:offsets[i + 1]]``.
        item: Positions in ``items`` of all histories, one user after the other, each oldest first.

    Raises:
        InputError: If a user id is no non-empty Unicode string, or is there twice.
    """

    items: Corpus
    user_ids: tuple[str, ...]
    offsets: Int64[np.ndarray, " u_plus_1"]
    item: Int32[np.ndarray, " total"]

    def __post_init__(self) -> None:
        check_ids(self.user_ids, "user")

    @classmethod
    def of(
        cls, items: Corpus, user_ids: Sequence[str], lengths: Sequence[int] | Int[np.ndarray, " u"], item: Any
    ) -> "Interactions":
        """Make interactions from the lengths of the histories.

        Args:
            items: The items.
            user_ids: External user ids.
            lengths: Number of items in each user's history.
            item: Positions in ``items`` of all histories, one user after the other, each oldest first.
        """
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(items=items, user_ids=tuple(user_ids), offsets=offsets, item=np.asarray(item, np.int32))

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.items.name

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    def renamed(self, name: str) -> "Interactions":
        """Return the same data under another name."""
        return dataclasses.replace(self, items=dataclasses.replace(self.items, name=name))

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " u"]:
        """Number of items in every user's history."""
        return np.diff(self.offsets)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of items, users and histories."""
        return fingerprint("interactions", self.items.fingerprint, list(self.user_ids), self.offsets, self.item)

    @cached_property
    def user_index(self) -> dict[str, int]:
        """Maps each user id to its position."""
        return {user: index for index, user in enumerate(self.user_ids)}

    def history(self, user: int) -> Int32[np.ndarray, " l"]:
        """Return the items of one user, oldest first."""
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    @property
    def evaluated_ids(self) -> list[str]:
        """External ids of the evaluated users."""
        return [self.user_ids[user] for user in self.evaluated_users.tolist()]

    @cached_property
    def evaluated_users(self) -> Int64[np.ndarray, " e"]:
        """Positions of the users with three items or more."""
        return np.flatnonzero(self.lengths >= _LEAST)

    def training_ends(self) -> Int64[np.ndarray, " u"]:
        """Return for each user the position in ``item`` where the training part of the history ends."""
        held_out = np.where(self.lengths >= _LEAST, HELD_OUT["train"], 0)
        return self.offsets[1:] - held_out

    def targets(self, split: str) -> Int64[np.ndarray, " e"]:
        """Return for each evaluated user the position in ``item`` of the item to predict; those before it are known.

        Args:
            split: ``"validation"`` or ``"test"``.
        """
        return self.offsets[1:][self.evaluated_users] - 1 - HELD_OUT[split]

    def histories(self, split: str, length: int) -> Int32[np.ndarray, "e length"]:
        """Return for each evaluated user the latest items before the one to predict.

        Args:
            split: ``"validation"`` or ``"test"``.
            length: Number of columns, at most as many items.

        Returns:
            Positions in ``items``, oldest first, then -1 as padding.
        """
        ends = self.targets(split)
        begins = np.maximum(self.offsets[self.evaluated_users], ends - length)
        columns = begins[:, None] + np.arange(length)
        inside = columns < ends[:, None]
        return np.where(inside, self.item[np.where(inside, columns, 0)], np.int32(-1))


def is_interactions(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds items and histories instead of documents and queries."""
    return is_present(Path(folder) / SEQUENCES) or is_present(Path(folder) / ITEMS)


def read_interactions(folder: str | os.PathLike[str]) -> Interactions:
    """Read a folder of items and histories.

    Users with fewer than three items are kept for training only, with a warning. Items without text, and items that a
    user has twice, are kept with a warning too.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    folder = Path(folder)
    require_folder(
        folder,
        expected=f"a folder with {ITEMS} and {SEQUENCES}",
        fix="check the path, or make one with 'genret corpus amazon', 'movielens', 'recbole' or 's3rec'",
    )
    item_ids, titles, texts = read_documents(folder / ITEMS, need_text=False)
    items = Corpus(name=folder.resolve().name, doc_ids=item_ids, titles=titles, texts=texts, source=os.fspath(folder))
    found = _read_histories(folder / SEQUENCES, items)
    _warn_about(found, folder / SEQUENCES)
    return found


def read_corpus(folder: str | os.PathLike[str]) -> Corpus:
    """Read the documents of a BEIR folder, or the items of a folder of items and histories.

    Raises:
        InputError: If :func:`genret_jax.data.corpus.read_beir` or :func:`read_interactions` refuses the folder.
    """
    return read_interactions(folder).items if is_interactions(folder) else read_beir(folder)


def write_interactions(interactions: Interactions, folder: str | os.PathLike[str]) -> None:
    """Write items and histories as a folder; a failure leaves no folder.

    Raises:
        InputError: If something is there already, or the disk is full.
    """
    items = interactions.items
    with atomic_folder(folder) as partial:
        write_documents(partial / ITEMS, items)
        with open(partial / SEQUENCES, "w", encoding="utf-8", newline="\n") as handle:
            for number, user in enumerate(interactions.user_ids):
                ids = (items.doc_ids[i] for i in interactions.history(number).tolist())
                handle.write(f"{' '.join(map(write_id, (user, *ids)))}\n")


def read_sequences(path: Path) -> Iterator[tuple[Place, str, list[str]]]:
    """Yield the place, the user id and the item ids of each line of a file of lines ``user item item …``.

    Raises:
        InputError: Naming the line, if a user has no items or is there twice, or an id is empty.
    """
    lines: dict[str, int] = {}
    for line, text in read_lines(path):
        place = Place(path, line)
        user, *ids = map(read_id, _FIELD.findall(text)) if '"' in text else text.split()
        if not ids:
            raise place.error(f"user {user!r} without items", expected="user item item …", fix="remove the line")
        if not (user and all(ids)):
            raise place.error("an empty id", expected="user item item …", fix="remove it")
        first = lines.setdefault(user, line)
        if first != line:
            raise place.error(
                f"user {user!r} again, first on line {first}",
                expected="one line a user, oldest item first",
                fix="join the two lines in the order of time, or check that the first column is the user",
            )
        yield place, user, ids


def _read_histories(path: Path, items: Corpus) -> Interactions:
    known = items.document_index
    lengths: dict[str, int] = {}
    item = array("i")
    for place, user, ids in read_sequences(path):
        for item_id in ids:
            require_known(item_id, "item", ITEMS, known, place)
            item.append(known[item_id])
        lengths[user] = len(ids)
    if not lengths:
        raise InputError("no users", file=path, expected="user item item … on each line", fix="check how it was made")
    return Interactions.of(items, list(lengths), list(lengths.values()), item)


def count_repeats(user: Int[np.ndarray, " e"], item: Int[np.ndarray, " e"]) -> int:
    """Count the interactions of users with items that they had before."""
    pairs = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    return len(pairs) - len(np.unique(pairs))


def _warn_about(found: Interactions, path: Path) -> None:
    warn_of_empty_documents(found.items)
    short = np.flatnonzero(found.lengths < _LEAST)
    if len(short) == found.num_users:
        raise InputError(
            "no user has three items",
            file=path,
            expected="one item each for test, validation and training",
            fix="check that a line holds all items of a user, separated by spaces",
        )
    if len(short):
        warnings.warn(
            f"{path}: {len(short):,} of {found.num_users:,} users have fewer than three items (first: user "
            f"{found.user_ids[short[0]]!r}); they are used for training, but not evaluated",
            stacklevel=3,
        )
    repeated = count_repeats(np.repeat(np.arange(found.num_users), found.lengths), found.item)
    if repeated:
        warnings.warn(
            f"{path}: {repeated:,} of {len(found.item):,} interactions are with an item that the user had before; they "
            "are kept, so a history may hold the item to be predicted",
            stacklevel=3,
        )
