"""The table of docids: which document has which code sequences, and the tree that those sequences span."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int32, Int64

from genret_jax.docids.code_tree import ROOT, CodeTree, paths
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint, load_arrays, save_arrays

KIND, VERSION = "docid_table", 1
_ARRAYS = ("codes", "offsets", "document", "node_parent", "node_code", "row_node")
_LARGEST_CODE = 2**31 - 2
#: Largest size of a level in a saved table or quantiser, unless the table has many rows. LSH has up to 2**24 codes.
LARGEST_LEVEL = 1 << 24

Sequences = Sequence[Sequence[int]] | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DocidTable:
    """Documents and their docids, many to many, as codes of a strategy's own numbering (never vocabulary ids).

    A row is one docid of one document. A document has at least one row and may have several; rows of several
    documents may carry equal codes, and their order is then the order in which those documents are returned.

    Attributes:
        doc_ids: External id of every document.
        codes: The codes of all rows, one row after the other.
        offsets: Row i has ``codes[offsets[i]:offsets[i + 1]]``.
        document: Document index of every row.
        level_sizes: Codebook size of every level; codes of level t are below ``level_sizes[t]``.
        node_parent: Parent of every tree node; node 0 is the root, with parent -1.
        node_code: Code on the edge to every node; ``EOS_CODE`` (-1) where a docid ends at a node with other children.
        row_node: The node in which every row ends, before an EOS.
        strategy: Name and settings of the strategy that made the docids, as JSON values.
        corpus_fingerprint: Fingerprint of the corpus they were made for.
    """

    doc_ids: PackedStrings
    codes: Int32[np.ndarray, " total"]
    offsets: Int64[np.ndarray, " r_plus_1"]
    document: Int32[np.ndarray, " r"]
    level_sizes: tuple[int, ...]
    node_parent: Int32[np.ndarray, " s"]
    node_code: Int32[np.ndarray, " s"]
    row_node: Int32[np.ndarray, " r"]
    strategy: Mapping[str, Any]
    corpus_fingerprint: str

    @classmethod
    def from_codes(
        cls,
        doc_ids: Sequence[str],
        sequences: Sequences,
        *,
        document: Sequence[int] | np.ndarray | None = None,
        level_sizes: Sequence[int] | None = None,
        strategy: Mapping[str, Any],
        corpus_fingerprint: str,
    ) -> "DocidTable":
        """Make a table from code sequences.

        Args:
            doc_ids: External ids, distinct.
            sequences: One code sequence a row: sequences of integers, or an integer array [r, m] padded with -1.
            document: Document index of every row; by default row i is document i.
            level_sizes: Codebook size of every level; by default the largest code of a level + 1, and codes must then
                be below :func:`code_limit`.
            strategy: Name and settings of the strategy, as JSON values.
            corpus_fingerprint: Fingerprint of the corpus they were made for.

        Raises:
            InputError: If ids repeat, a document has no docid or the same one twice, or a code is out of range.
        """
        root = CodeTree.root()
        empty = cls(
            doc_ids=PackedStrings.pack(()),
            codes=np.zeros(0, np.int32),
            offsets=np.zeros(1, np.int64),
            document=np.zeros(0, np.int32),
            level_sizes=tuple(int(size) for size in level_sizes or ()),
            node_parent=root.parent,
            node_code=root.code,
            row_node=np.zeros(0, np.int32),
            strategy=dict(strategy),
            corpus_fingerprint=corpus_fingerprint,
        )
        return empty._extended(doc_ids, sequences, document, grow_levels=level_sizes is None)

    def append(
        self,
        doc_ids: Sequence[str],
        sequences: Sequences,
        *,
        document: Sequence[int] | np.ndarray | None = None,
        corpus_fingerprint: str | None = None,
    ) -> "DocidTable":
        """Return a table with further documents or rows; documents, rows and nodes of this one keep their indices.

        Args:
            doc_ids: External ids of the new documents; may be empty.
            sequences: One code sequence a new row, as in :meth:`from_codes`.
            document: Document index of every new row, counted over old and new documents; by default new row i is
                new document i. An old document gets a further docid this way.
            corpus_fingerprint: Fingerprint of the grown corpus; by default that of this table.

        Raises:
            InputError: As :meth:`from_codes`. Levels grow as the codes need.
        """
        kept = self.corpus_fingerprint if corpus_fingerprint is None else corpus_fingerprint
        renamed = dataclasses.replace(self, corpus_fingerprint=kept)
        return renamed._extended(doc_ids, sequences, document, grow_levels=True)

    def _extended(
        self, doc_ids: Sequence[str], sequences: Sequences, document: Any, *, grow_levels: bool
    ) -> "DocidTable":
        names = [*self.doc_ids, *doc_ids]
        _check_names(names)
        padded, lengths = _padded(sequences)
        rows = _documents(document, len(padded), self.num_documents, len(names))
        level_sizes = self.level_sizes
        if grow_levels:
            level_sizes = _grown(level_sizes, padded, code_limit(self.num_rows + len(padded)))
        _check_levels(level_sizes, padded, rows, names)
        tree, row_node = self.tree.insert(padded, lengths)
        row_node = np.concatenate([self.row_node, row_node])
        tree = tree.with_ends(row_node)
        all_rows = np.concatenate([self.document, rows])
        _check_rows(all_rows, row_node, names)
        return dataclasses.replace(
            self,
            doc_ids=PackedStrings.pack(names),
            codes=np.concatenate([self.codes, padded[padded >= 0]]),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + np.cumsum(lengths, dtype=np.int64)]),
            document=all_rows,
            level_sizes=level_sizes,
            node_parent=tree.parent,
            node_code=tree.code,
            row_node=row_node,
        )

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.doc_ids)

    @property
    def num_rows(self) -> int:
        """Number of (document, docid) pairs."""
        return len(self.document)

    @property
    def num_nodes(self) -> int:
        """Number of tree nodes, the root and the ends included."""
        return len(self.node_parent)

    @property
    def tree(self) -> CodeTree:
        """The tree of all docids."""
        return CodeTree(np.asarray(self.node_parent), np.asarray(self.node_code))

    def paths(self) -> Int32[np.ndarray, "r m_plus_1"]:
        """Return the nodes from the root to the end of every row, padded with 0."""
        return paths(self.tree.parent, np.asarray(self.row_node), self.lengths)

    @property
    def lengths(self) -> Int32[np.ndarray, " r"]:
        """Number of codes in every row."""
        return np.diff(self.offsets).astype(np.int32)

    def padded(self) -> Int32[np.ndarray, "r m"]:
        """Return the codes as one array, -1 beyond each row's length."""
        lengths = self.lengths
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        codes = np.full(inside.shape, -1, np.int32)
        codes[inside] = self.codes
        return codes

    def docid(self, row: SupportsIndex) -> tuple[int, ...]:
        """Return the codes of one row."""
        row = range(self.num_rows)[row]
        return tuple(self.codes[self.offsets[row] : self.offsets[row + 1]].tolist())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any document, code or node."""
        arrays = [np.asarray(getattr(self, name)) for name in _ARRAYS]
        return fingerprint(self.doc_ids.text, self.doc_ids.offsets, *arrays, list(self.level_sizes))

    def require_corpus(self, corpus_fingerprint: str, *, file: str | os.PathLike[str] | None = None) -> None:
        """Refuse to be used with another corpus.

        Args:
            corpus_fingerprint: Fingerprint of the corpus at hand.
            file: The folder of this table, for the message.

        Raises:
            InputError: If the table was made for another corpus.
        """
        if corpus_fingerprint != self.corpus_fingerprint:
            raise InputError(
                f"docids of another corpus (fingerprint {self.corpus_fingerprint}, {self.num_documents} documents)",
                file=file,
                expected=f"docids of the corpus with fingerprint {corpus_fingerprint}",
                fix="build the docids of this corpus with 'genret docids build', or give the corpus they were made for",
            )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the table as a folder of arrays.

        Args:
            folder: Destination.

        Raises:
            InputError: If a level has more codes than :meth:`load` accepts, or the folder cannot be written.
        """
        require_level_sizes(self.level_sizes, self.num_rows, file=folder)
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        details = {
            "documents": self.num_documents,
            "level_sizes": list(self.level_sizes),
            "strategy": dict(self.strategy),
            "corpus_fingerprint": self.corpus_fingerprint,
            "fingerprint": self.fingerprint,
        }
        arrays |= {"doc_id_text": self.doc_ids.text, "doc_id_offsets": self.doc_ids.offsets}
        save_arrays(folder, arrays, kind=KIND, version=VERSION, details=details)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "DocidTable":
        """Open a saved table; its arrays are memory-mapped.

        Raises:
            InputError: If the folder is missing, damaged, or something else.
        """
        arrays, manifest = load_arrays(folder, kind=KIND, version=VERSION)
        return cls(
            doc_ids=PackedStrings(arrays["doc_id_text"], arrays["doc_id_offsets"]),
            level_sizes=require_level_sizes(manifest["level_sizes"], len(arrays["document"]), file=folder),
            strategy=manifest["strategy"],
            corpus_fingerprint=manifest["corpus_fingerprint"],
            **{name: arrays[name] for name in _ARRAYS},
        )

    def __repr__(self) -> str:
        return (
            f"DocidTable({self.num_documents} documents, {self.num_rows} rows, {self.num_nodes} nodes, "
            f"level_sizes={self.level_sizes}, strategy={dict(self.strategy)})"
        )


def _padded(sequences: Sequences) -> tuple[Int32[np.ndarray, "r m"], Int32[np.ndarray, " r"]]:
    """Return codes padded with -1, and their lengths."""
    if isinstance(sequences, np.ndarray):
        if sequences.ndim != 2 or not np.issubdtype(sequences.dtype, np.integer):
            raise InputError(
                f"code sequences {sequences.dtype}{list(sequences.shape)}", expected="an integer array [r, m]"
            )
        padded = sequences.astype(np.int64)
    else:
        padded, inside = pad_sequences(sequences)
        if (bad := (padded < 0) & inside).any():
            _reject_code(padded, bad)
    present = padded >= 0
    lengths = present.sum(1)
    # A -1 in the middle, another negative number, or a code that 32 bits do not hold.
    bad = (present != (np.arange(padded.shape[1]) < lengths[:, None])) | (padded < -1) | (padded > _LARGEST_CODE)
    if bad.any():
        _reject_code(padded, bad)
    return padded.astype(np.int32), lengths.astype(np.int32)


def pad_sequences(sequences: Sequence[Sequence[int]]) -> tuple[Int64[np.ndarray, "r m"], Bool[np.ndarray, "r m"]]:
    """Return sequences as the rows of one array, padded with -1, and where their entries are."""
    sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    padded = np.full(inside.shape, -1, np.int64)
    padded[inside] = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, sizes.sum())
    return padded, inside


def _reject_code(padded: np.ndarray, bad: np.ndarray) -> None:
    row, level = np.argwhere(bad)[0]
    raise InputError(
        f"code {padded[row, level]} at level {level} of row {row}",
        expected=f"codes between 0 and {_LARGEST_CODE}, without gaps",
    )


def _documents(document: Any, rows: int, first: int, total: int) -> Int32[np.ndarray, " r"]:
    indices = np.arange(first, total) if document is None else np.asarray(document, np.int64)
    if len(indices) != rows:
        raise InputError(
            f"{rows} code sequences for {len(indices)} documents", expected="a document for every sequence"
        )
    if ((indices < 0) | (indices >= total)).any():
        wrong = indices[(indices < 0) | (indices >= total)][0]
        raise InputError(f"document index {wrong}", expected=f"0 to {total - 1}, as there are {total} documents")
    return indices.astype(np.int32)


def _check_names(names: list[str]) -> None:
    if len(set(names)) != len(names):
        repeated = collections.Counter(names).most_common(1)[0][0]
        raise InputError(f"the document id {repeated!r} occurs twice", expected="distinct document ids")


def code_limit(rows: int) -> int:
    """Return the limit of codes in a table without given level sizes: 65,536, or 16 per row if that is more.

    Every code costs memory (a token, with a row in the network's tables), whether a docid uses it or not, so that one
    large code would cost as much as all codes below it.
    """
    return max(1 << 16, 16 * rows)


def require_level_sizes(sizes: Any, rows: int, *, file: str | os.PathLike[str]) -> tuple[int, ...]:
    """Check the level sizes of a saved table or quantiser.

    Args:
        sizes: From its manifest.
        rows: Rows of the table; 0 for a quantiser.
        file: The folder, for the message.

    Raises:
        InputError: If they are no list of integers, or one is negative or too large.
    """
    limit = max(LARGEST_LEVEL, code_limit(rows))
    if not isinstance(sizes, (list, tuple)) or not all(type(size) is int and 0 <= size <= limit for size in sizes):
        raise InputError(
            f"level sizes {sizes}",
            file=file,
            expected=f"integers up to {limit:,}, one for each level",
            fix="build the docids again, with the codes of every level numbered from 0 without gaps",
        )
    return tuple(sizes)


def _grown(level_sizes: tuple[int, ...], padded: np.ndarray, limit: int) -> tuple[int, ...]:
    """Return level sizes that hold the codes too; codes beyond the old sizes must be below the limit."""
    limits = np.full(padded.shape[1], limit)
    limits[: len(level_sizes)] = np.maximum(level_sizes[: len(limits)], limit)
    if (beyond := padded >= limits).any():
        row, level = np.argwhere(beyond)[0]
        raise InputError(
            f"code {padded[row, level]} at level {level} of row {row}",
            expected=f"codes below {limits[level]} for {len(padded)} rows: memory grows with the largest code",
            fix="number the codes of every level from 0 without gaps, or give level_sizes",
        )
    needed = (padded.max(0, initial=-1) + 1).tolist()
    return tuple(max(pair) for pair in itertools.zip_longest(level_sizes, needed, fillvalue=0))


def _check_levels(level_sizes: tuple[int, ...], padded: np.ndarray, rows: np.ndarray, names: list[str]) -> None:
    limits = np.zeros(padded.shape[1], np.int64)
    limits[: len(level_sizes)] = level_sizes[: len(limits)]
    if (beyond := padded >= limits).any():
        row, level = np.argwhere(beyond)[0]
        raise InputError(
            f"code {padded[row, level]} at level {level} of document {names[rows[row]]!r}",
            expected=f"codes below the level sizes {level_sizes}",
        )


def _check_rows(document: np.ndarray, row_node: np.ndarray, names: list[str]) -> None:
    without = np.flatnonzero(np.bincount(document[row_node != ROOT], minlength=len(names)) == 0)
    if len(without) or (row_node == ROOT).any():
        first = without[0] if len(without) else document[row_node == ROOT][0]
        raise InputError(f"document {names[first]!r} has no or an empty docid", expected="at least one code")
    _, first_rows = np.unique(np.stack([document, row_node], 1), axis=0, return_index=True)
    if len(first_rows) != len(document):
        twice = np.setdiff1d(np.arange(len(document)), first_rows)[0]
        raise InputError(f"document {names[document[twice]]!r} has the same docid twice", expected="distinct rows")
