"""Docids as decoder tokens: the codec that maps codes to tokens, and the tree of the token sequences."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int, Int32

from genret_jax.docids.code_tree import EOS_CODE, ROOT, CodeTree, depths, paths
from genret_jax.docids.table import DocidTable, pad_sequences
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require

PAD, EOS = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DocidTree:
    """The children of every node in CSR form, sorted by token, and the token on the edge to every node.

    Attributes:
        child_offsets: Children of node x are at ``child_offsets[x]:child_offsets[x + 1]``.
        child_nodes: Their node ids.
        child_tokens: Their tokens.
        node_token: Token that leads to a node; 0 at the root.
    """

    child_offsets: Int32[np.ndarray, " s_plus_1"]
    child_nodes: Int32[np.ndarray, " e"]
    child_tokens: Int32[np.ndarray, " e"]
    node_token: Int32[np.ndarray, " s"]

    @functools.cached_property
    def _above(self) -> Int32[np.ndarray, " e"]:
        """Parent of each of the child nodes, in their order."""
        return np.repeat(np.arange(self.num_nodes, dtype=np.int32), np.diff(self.child_offsets))

    def children(self, nodes: Int32[np.ndarray, "*b"], tokens: Int32[np.ndarray, "*b"]) -> Int32[np.ndarray, "*b"]:
        """Return for each node the child that its token leads to, or an arbitrary node if there is none."""
        edges = self._above.astype(np.int64) << 32 | self.child_tokens
        found = np.searchsorted(edges, nodes.astype(np.int64) << 32 | tokens)
        return self.child_nodes[np.minimum(found, len(edges) - 1)]

    @property
    def num_nodes(self) -> int:
        """Number of node numbers, the root's included; with ``nodes="tokens"`` some numbers have no node."""
        return len(self.node_token)

    @property
    def parents(self) -> Int32[np.ndarray, " s"]:
        """Parent of every node; 0 for the root and for numbers without a node."""
        found = np.zeros(self.num_nodes, np.int32)
        found[self.child_nodes] = self._above
        return found

    def within(self, nodes: Bool[np.ndarray, " s"]) -> "DocidTree":
        """Return the tree without the other nodes; all ancestors must be among the nodes, which keep their numbers."""
        parent = np.full(self.num_nodes, -1, np.int32)
        kept = nodes[self.child_nodes]
        parent[self.child_nodes[kept]] = self._above[kept]
        return DocidTree.from_parents(parent, self.node_token)

    @classmethod
    def from_parents(cls, parent: Int32[np.ndarray, " s"], node_token: Int32[np.ndarray, " s"]) -> "DocidTree":
        """Build from every node's parent (-1 at the root, node 0, and where there is none) and the token to it."""
        inside = np.flatnonzero(parent >= 0)  # the others are the root, and numbers without a node
        children = inside[np.lexsort((node_token[inside], parent[inside]))]
        fanout = np.bincount(parent[inside], minlength=len(parent))
        return cls(
            child_offsets=np.concatenate([[0], np.cumsum(fanout)]).astype(np.int32),
            child_nodes=children.astype(np.int32),
            child_tokens=node_token[children],
            node_token=node_token,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedDocids:
    """Docids as token sequences, row for row as in their table.

    Attributes:
        tokens: Tokens with EOS where the codec puts one, padded with 0.
        lengths: Number of tokens of every row.
        prefix_nodes: Tree node in which each token is emitted (the root for the first), padded with 0.
        document: Document index of every row.
        tree: The tree of all rows; its node ids are those of ``prefix_nodes``.
    """

    tokens: Int32[np.ndarray, "r m"]
    lengths: Int32[np.ndarray, " r"]
    prefix_nodes: Int32[np.ndarray, "r m"]
    document: Int32[np.ndarray, " r"]
    tree: DocidTree

    def node_vectors(self, documents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "s d"]:
        """Return for each tree node the sum of the directions of the documents below it.

        Args:
            documents: One vector for each document, of any norm; zero vectors count nowhere.
        """
        norms = np.linalg.norm(documents, axis=1, keepdims=True)
        return self._sums(documents / np.maximum(norms, 1e-9))

    def node_means(self, documents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "s d"]:
        """Return for each tree node the direction of the sum of the documents below it, at the mean of their lengths.

        Args:
            documents: One vector for each document; zero vectors count nowhere.
        """
        lengths = np.linalg.norm(documents, axis=1, keepdims=True)
        sums, lengths = self._sums(documents), self._sums(np.concatenate([lengths, lengths > 0], axis=1))
        lengths = lengths[:, :1] / np.maximum(lengths[:, 1:], 1)
        return sums * (lengths / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9))

    def _sums(self, documents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "s d"]:
        nodes, rows = self.visits()
        visitors = self.document[rows]
        visits = scipy.sparse.csr_matrix(
            (np.ones(len(nodes), np.float32), (nodes, visitors)), shape=(self.tree.num_nodes, len(documents))
        )
        return np.asarray(visits @ documents)

    def tree_of(self, documents: Bool[np.ndarray, " n"]) -> DocidTree:
        """Return the tree of the docids of some documents; nodes keep their numbers."""
        nodes, rows = self.visits()
        visitors = self.document[rows]
        visited = np.zeros(self.tree.num_nodes, bool)
        visited[nodes[documents[visitors]]] = True
        return self.tree.within(visited)

    def visits(self) -> tuple[Int32[np.ndarray, " v"], Int[np.ndarray, " v"]]:
        """Return every node on the path of every row, the last one included, and the row."""
        rows, last = np.arange(len(self.lengths)), self.lengths - 1
        ends = self.tree.children(self.prefix_nodes[rows, last], self.tokens[rows, last])
        before = np.arange(self.tokens.shape[1]) < self.lengths[:, None]
        nodes = np.concatenate([self.prefix_nodes[before], ends])
        return nodes, np.concatenate([np.nonzero(before)[0], rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidCodec:
    """The map from codes to tokens. 0 pads, 1 is EOS.

    ``per_level`` gives every level tokens of its own, ``shared`` one set of tokens to all levels (the nodes of the
    tree are then those of the table), and ``text`` writes the codes as a decimal string, as the original DSI does
    (Tay et al. 2022, arXiv 2202.06991, section 3.2), through the vocabulary of the text. In that string every level
    has a fixed width, so that different docids are different strings.

    Attributes:
        kind: ``"per_level"``, ``"shared"`` or ``"text"``.
        first_token: First token after those of text (at least 2, after padding and EOS).
        level_sizes: Codebook sizes; larger than the table's where room for later documents is wanted.
        eos: ``"needed"``: only where a docid is a prefix of another; ``"always"``; text docids always end with EOS.
        nodes: ``"table"``, or ``"tokens"`` for docids of one code: nodes are numbered as the tokens that lead to them,
            so that the logits of a head with a row a node lie as its rows do, on one device and divided over many.
        encode_text: For ``text``: string to vocabulary ids, without EOS.
    """

    kind: Literal["per_level", "shared", "text"] = "per_level"
    first_token: int
    level_sizes: tuple[int, ...]
    eos: Literal["needed", "always"] = "needed"
    nodes: Literal["table", "tokens"] = "table"
    encode_text: Callable[[str], Sequence[int]] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "first_token", self.first_token > EOS, "at least 2: 0 pads and 1 is EOS")
        require(self, "level_sizes", min(self.level_sizes, default=0) > 0, "at least one level, each of at least 1")
        require(self, "level_sizes", self.vocab_size < 2**31, "sizes with a sum below 2**31, as tokens are 32-bit")
        atomic = self.kind != "text" and self.eos == "needed" and len(self.level_sizes) == 1
        require(self, "nodes", self.nodes == "table" or atomic, "'table' unless docids are of one code and without EOS")
        require(self, "encode_text", (self.kind == "text") == callable(self.encode_text), "a callable for 'text' only")

    @property
    def vocab_size(self) -> int:
        """The first token after the last docid token: the decoder's vocabulary size."""
        extra = {"per_level": sum(self.level_sizes), "shared": max(self.level_sizes), "text": 0}
        return self.first_token + extra[self.kind]

    def encode(self, table: DocidTable) -> EncodedDocids:
        """Return the table's docids as tokens, with their tree.

        With ``eos="always"`` a docid that needs no EOS to be told apart gets an end node behind the table's nodes.
        Such a node is an only child, so its output vector never matters and may move when the table grows.

        Raises:
            InputError: If a code does not fit the codec's levels, or two docids become one text.
        """
        self._check_table(table)
        if self.kind == "text":
            return self._encode_text(table)
        if self.nodes == "tokens":
            return self._encode_atomic(table)
        tree, row_node = table.tree, np.asarray(table.row_node)
        if self.eos == "always":
            tree = tree.with_ends(row_node, always=True)
        level = depths(tree.parent) - 1  # of the edge that leads to a node
        return _encoded(_with_tokens(tree, self._first_tokens()[level] + tree.code), row_node, table.lengths, table)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for :meth:`from_json`; a text codec's callable is given again there."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["encode_text"]
        return fields | {"level_sizes": list(self.level_sizes)}

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], encode_text: Callable[[str], Sequence[int]] | None = None
    ) -> "DocidCodec":
        """Rebuild a codec.

        Args:
            values: From :meth:`to_json`.
            encode_text: For a text codec, its vocabulary's encoding.
        """
        return cls(**{**values, "level_sizes": tuple(values["level_sizes"])}, encode_text=encode_text)

    def _first_tokens(self) -> np.ndarray:
        """Return the token of code 0 at every level (one entry more than levels, for ends below the last one)."""
        if self.kind == "shared":
            return np.full(len(self.level_sizes) + 1, self.first_token)
        return self.first_token + np.cumsum([0, *self.level_sizes])

    def _check_table(self, table: DocidTable) -> None:
        if len(table.level_sizes) > len(self.level_sizes) or any(
            needed > size for needed, size in zip(table.level_sizes, self.level_sizes, strict=False)
        ):
            raise InputError(
                f"docids with levels of sizes {table.level_sizes}",
                expected=f"at most the codec's {self.level_sizes}",
                fix="make the codec with larger level_sizes, or the docids with fewer codes",
            )

    def _encode_atomic(self, table: DocidTable) -> EncodedDocids:
        token_of_node = self.first_token + np.asarray(table.node_code)
        token_of_node[ROOT] = PAD
        node_token = np.zeros(self.vocab_size, np.int32)
        node_token[token_of_node] = token_of_node
        parent = np.where(node_token > PAD, ROOT, -1).astype(np.int32)
        tree = DocidTree.from_parents(parent, node_token)
        return _encoded(tree, token_of_node[np.asarray(table.row_node)], table.lengths, table)

    def _encode_text(self, table: DocidTable) -> EncodedDocids:
        assert self.encode_text is not None
        strings = render(table, self.level_sizes)
        pieces = [self.encode_text(string) for string in strings]
        tokens, inside = pad_sequences(pieces)
        lengths = inside.sum(1, dtype=np.int32)
        if (wrong := inside & ((tokens <= EOS) | (tokens >= self.first_token))).any() or not lengths.all():
            row = np.flatnonzero(wrong.any(1) | (lengths == 0))[0]
            raise InputError(
                f"the vocabulary writes docid {strings[row]!r} as {list(pieces[row])}",
                expected=f"one or more tokens from {EOS + 1} to {self.first_token - 1}",
                fix="use a vocabulary that knows the digits 0 to 9",
            )
        tree, row_node = CodeTree.root().insert(tokens, lengths)
        _check_distinct(strings, np.asarray(table.row_node), row_node)
        tree = tree.with_ends(row_node, always=True)
        return _encoded(_with_tokens(tree, tree.code), row_node, lengths, table)


def render(table: DocidTable, level_sizes: Sequence[int] | None = None) -> list[str]:
    """Return every row as a decimal string with a fixed width a level: (3, 7) of levels (10, 100) is ``"307"``.

    Args:
        table: The docids.
        level_sizes: Sizes that decide the widths; the table's by default.
    """
    sizes = table.level_sizes if level_sizes is None else level_sizes
    columns = []
    for size, codes in zip(sizes, table.padded().T, strict=False):
        digits = np.char.zfill(np.maximum(codes, 0).astype(str), len(str(size - 1)))
        columns.append(np.where(codes >= 0, digits, ""))
    return ["".join(parts) for parts in zip(*(column.tolist() for column in columns), strict=True)]


def _check_distinct(strings: list[str], table_node: np.ndarray, text_node: np.ndarray) -> None:
    """Refuse a vocabulary that writes two docids as the same tokens."""
    pairs, first = np.unique(np.stack([text_node, table_node], 1), axis=0, return_index=True)
    if (same := np.flatnonzero(pairs[1:, 0] == pairs[:-1, 0])).size:
        one, other = (strings[row] for row in first[same[0] : same[0] + 2])
        raise InputError(
            f"the vocabulary writes the docids {one!r} and {other!r} alike",
            fix="use a vocabulary that keeps digits apart, or another kind of docid codec",
        )


def _with_tokens(tree: CodeTree, tokens: Int[np.ndarray, " s"]) -> DocidTree:
    """Return a tree with the tokens of its codes; the edge to an end has EOS."""
    node_token = np.where(tree.code == EOS_CODE, EOS, tokens).astype(np.int32)
    node_token[ROOT] = PAD
    return DocidTree.from_parents(tree.parent, node_token)


def _encoded(
    tree: DocidTree, row_node: Int32[np.ndarray, " r"], lengths: Int[np.ndarray, " r"], table: DocidTable
) -> EncodedDocids:
    """Read the rows' tokens off the tree; a row ends with EOS where its last node has an EOS child."""
    parent, node_token = tree.parents, tree.node_token
    has_end = np.zeros(len(parent), bool)
    has_end[parent[node_token == EOS]] = True
    with_end = has_end[row_node]
    nodes = paths(parent, row_node, lengths)  # --> [r, m + 1]
    total = lengths + with_end
    width = int(total.max(initial=0))
    tokens = np.zeros((len(row_node), width), np.int32)
    tokens[:, : nodes.shape[1] - 1] = node_token[nodes[:, 1:]]
    tokens[with_end, lengths[with_end]] = EOS
    prefix_nodes = np.where(np.arange(width) < total[:, None], nodes[:, :width], 0).astype(np.int32)
    return EncodedDocids(
        tokens=tokens,
        lengths=total.astype(np.int32),
        prefix_nodes=prefix_nodes,
        document=np.asarray(table.document),
        tree=tree,
    )
