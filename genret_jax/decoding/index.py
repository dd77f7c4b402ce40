"""The docid index: every identifier that exists, as a trie of flat arrays that a jitted search can walk."""

import dataclasses
import os
import typing
from typing import Any

import jax
import numpy as np

from genret_jax.decoding import trie
from genret_jax.errors import InputError
from genret_jax.storage import load_arrays, save_arrays

_KIND, _VERSION = "docid_index", 1


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidIndex:
    """The set of docids as a trie, and which documents each of them names.

    A state is a distinct prefix. States are numbered level by level and in token order, state 0 being the root, so the
    children of a state are neighbours and the trie's edge ``e`` leads to state ``e + 1``: child states are never
    stored. A state without children is the end of a docid. Distinct docids are numbered in the order of their end
    states, shorter ones first, then by tokens.

    An index is a pytree: pass it to jitted functions as an argument, after one :func:`jax.device_put`. The arrays of a
    loaded index are memory-mapped. The integers below are static; searches of two indexes share a compiled program
    when these and the array shapes agree.

    Attributes:
        child_offsets: ``[s + 1]`` int32, the edges of state ``x`` are ``child_offsets[x] : child_offsets[x + 1]``.
        child_tokens: ``[e]``, the token of each edge, rising within a state; the smallest type that holds them.
        prefix_nodes: ``[s]`` int32, what the model's step is told about a prefix (0 where a docid has ended).
        docid_states: ``[u]`` int32, the end state of each distinct docid, rising.
        row_offsets: ``[u + 1]`` int32, the rows of docid ``q`` are ``rows[row_offsets[q] : row_offsets[q + 1]]``.
        rows: ``[r]`` int32, row numbers as given to :meth:`build`, in their stated order within a docid.
        documents: ``[r]`` int32, the document of each entry of ``rows``.
        root_fanout: At least the number of children of the root.
        max_fanout: At least the number of children of any other state; 0 when every docid is one token.
        max_length: Tokens of the longest docid, EOS included.
        vocab_size: Width of the logits that the index fits.
    """

    child_offsets: Any
    child_tokens: Any
    prefix_nodes: Any
    docid_states: Any
    row_offsets: Any
    rows: Any
    documents: Any
    root_fanout: int = dataclasses.field(metadata={"static": True})
    max_fanout: int = dataclasses.field(metadata={"static": True})
    max_length: int = dataclasses.field(metadata={"static": True})
    vocab_size: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def build(
        cls,
        tokens: np.ndarray,
        lengths: np.ndarray,
        document: np.ndarray,
        prefix_nodes: np.ndarray | None = None,
        *,
        vocab_size: int,
    ) -> "DocidIndex":
        """Build the index of a set of docids, in any order and with repetitions.

        Args:
            tokens: ``[r, m]`` integers; what lies beyond a row's length is ignored.
            lengths: ``[r]`` tokens of each row, EOS included where the docid has one.
            document: ``[r]`` number of the document that each row names. Several rows may name one document, and
                several rows may hold the same tokens: these documents share a docid, in the order of the rows.
            prefix_nodes: ``[r, m]`` the node to hand to the model's step before each token; rows that share a prefix
                must agree. The states' own numbers when left out.
            vocab_size: Width of the decoder's logits.

        Raises:
            InputError: If there is no docid, one is empty, has a token outside the vocabulary, or is the beginning of
                another (both can exist only if the shorter one ends with EOS), or prefix nodes disagree.
        """
        tokens, lengths, document = np.asarray(tokens), np.asarray(lengths), np.asarray(document)
        nodes = None if prefix_nodes is None else np.asarray(prefix_nodes)
        trie.check_docids(tokens, lengths, document, nodes, vocab_size)
        built = trie.build_trie(tokens, lengths, nodes, vocab_size)
        fanouts = np.diff(built.child_offsets)
        by_end = np.argsort(built.row_ends, kind="stable")
        ends, first = np.unique(built.row_ends[by_end], return_index=True)
        rows = built.row_order[by_end].astype(np.int32)
        return cls(
            child_offsets=built.child_offsets,
            child_tokens=built.child_tokens.astype(np.min_scalar_type(vocab_size - 1)),
            prefix_nodes=built.prefix_nodes,
            docid_states=ends.astype(np.int32),
            row_offsets=np.append(first, len(rows)).astype(np.int32),
            rows=rows,
            documents=document[rows].astype(np.int32),
            root_fanout=int(fanouts[0]),
            max_fanout=int(fanouts[1:].max()),
            max_length=int(lengths.max()),
            vocab_size=int(vocab_size),
        )

    @property
    def num_states(self) -> int:
        """Prefixes in the trie, the root and the ends included."""
        return self.prefix_nodes.shape[0]

    @property
    def num_docids(self) -> int:
        """Distinct docids."""
        return self.docid_states.shape[0]

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    def save(self, folder: str | os.PathLike[str], *, details: dict[str, Any] | None = None) -> None:
        """Write the index to a new folder.

        Args:
            folder: Where; it must not exist.
            details: Further JSON values for its manifest, such as the docid table's fingerprint.
        """
        arrays, static = {}, {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("static"):
                static[field.name] = value
            else:
                arrays[field.name] = np.asarray(value)
        save_arrays(folder, arrays, kind=_KIND, version=_VERSION, details={**(details or {}), "static": static})

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, vocab_size: int | None = None) -> "DocidIndex":
        """Open an index written by :meth:`save`, memory-mapped.

        Args:
            folder: Where it lies.
            vocab_size: The decoder's; checked when given.

        Raises:
            InputError: If the folder is missing, damaged, or made for another vocabulary.
        """
        arrays, manifest = load_arrays(folder, kind=_KIND, version=_VERSION)
        static = manifest["static"]
        if vocab_size not in (None, static["vocab_size"]):
            raise InputError(
                f"a docid index for a vocabulary of {static['vocab_size']}",
                file=folder,
                expected=f"{vocab_size}, the decoder's",
                fix="rebuild the index from this model's docid table",
            )
        members: dict[str, Any] = {**arrays, **static}
        return cls(**members)
