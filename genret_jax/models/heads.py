"""The decoder's input and output: tokens of a vocabulary, or nodes of the docid tree.

Both heads have the same two methods, so the decoder need not know which head it has:

* ``embed(tokens, nodes)`` returns the decoder's input vectors;
* ``logits(hidden, nodes, tree, at_root)`` returns the logits of whole sequences or of single positions.
"""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Bool, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.item_input import WholeItems
from genret_jax.models.layers import Embed, constrain, project

# Logit of an impossible token; finite, so that a weight of zero times its loss is zero and not NaN.
IMPOSSIBLE = -1e7
# First logit and number of logits to return; None for all.
Columns = tuple[Int[Array, ""] | int, int] | None
# Reading one scattered row of a table takes about as long as this number of inner products.
_ROW_COST = 32


@typing.no_type_check
@struct.dataclass
class NodeTree:
    """The docid tree as device arrays, in compressed rows: node ``x`` has the edges ``child_offsets[x:x+2]``.

    Attributes:
        child_offsets: int32 [s + 1]; index of the first edge of each node.
        child_nodes: int32 [e]; node at the end of each edge.
        child_tokens: int32 [e]; decoder token of each edge, ascending within a node.
        lookahead_nodes: int32 [g]; the children of each child of the root in turn; a child without children stands for
            itself.
        lookahead_tokens: int32 [g]; tokens that lead to these nodes.
        lookahead_windows: int32 [root_fanout, w]; for each child of the root, the positions of its nodes in
            ``lookahead_nodes``, padded with g.
        fanouts: Largest number of edges of a node at each depth, the root first; static.
        root_first_node: Id of the root's first child if its children have consecutive ids, else -1; static.
        root_first_token: Token of that child if the tokens of the children are consecutive, else -1; static.
        first_lookahead_node: First of ``lookahead_nodes`` if they have consecutive ids, else -1; static.
    """

    child_offsets: Array
    child_nodes: Array
    child_tokens: Array
    lookahead_nodes: Array
    lookahead_tokens: Array
    lookahead_windows: Array
    fanouts: tuple[int, ...] = struct.field(pytree_node=False)
    root_first_node: int = struct.field(pytree_node=False, default=-1)
    root_first_token: int = struct.field(pytree_node=False, default=-1)
    first_lookahead_node: int = struct.field(pytree_node=False, default=-1)

    @classmethod
    def build(cls, child_offsets: np.ndarray, child_nodes: np.ndarray, child_tokens: np.ndarray) -> "NodeTree":
        """Build a tree from arrays on the host, and compute its other fields."""
        offsets, nodes, tokens = np.asarray(child_offsets), np.asarray(child_nodes), np.asarray(child_tokens)
        fanout = np.diff(offsets)
        firsts = nodes[: fanout[0]]
        counts = np.maximum(fanout[firsts], 1)
        begins = np.cumsum(counts) - counts
        inner = np.repeat(fanout[firsts] > 0, counts)
        edges = np.repeat(offsets[firsts] - begins, counts) + np.arange(len(inner))
        # A leaf has no edges; its lookahead is its own edge from the root.
        edges = np.where(inner, edges, np.repeat(np.arange(fanout[0]), counts))
        ahead = nodes[edges]
        window = np.arange(counts.max(initial=1))
        windows = np.where(window < counts[:, None], begins[:, None] + window, len(ahead))
        return cls(
            child_offsets=jnp.asarray(offsets, jnp.int32),
            child_nodes=jnp.asarray(nodes, jnp.int32),
            child_tokens=jnp.asarray(tokens, jnp.int32),
            lookahead_nodes=jnp.asarray(ahead, jnp.int32),
            lookahead_tokens=jnp.asarray(tokens[edges], jnp.int32),
            lookahead_windows=jnp.asarray(windows, jnp.int32),
            fanouts=_fanouts(offsets, nodes),
            root_first_node=_first_of_consecutive(firsts),
            root_first_token=_first_of_consecutive(tokens[: fanout[0]]),
            first_lookahead_node=_first_of_consecutive(ahead),
        )

    @property
    def root_fanout(self) -> int:
        """Number of edges of the root."""
        return self.fanouts[0]

    @property
    def max_fanout(self) -> int:
        """Largest number of edges of any other node."""
        return max(self.fanouts[1:], default=0)

    @property
    def rows_are_logits(self) -> bool:
        """Whether all docids have one code, and nodes are numbered like the tokens that lead to them, without gaps."""
        return self.max_fanout == 0 and self.root_first_node == self.root_first_token > 0

    def edges_of(self, nodes: Int[Array, "*q"], window: int) -> tuple[Int[Array, "*q f"], Bool[Array, "*q f"]]:
        """Return ``window`` edges for each of some nodes, none of them the root, and which of these edges exist."""
        start = jnp.take(self.child_offsets, nodes, mode="clip")[..., None]
        end = jnp.take(self.child_offsets, nodes + 1, mode="clip")[..., None]
        edges = start + jnp.arange(window, dtype=jnp.int32).reshape((1,) * nodes.ndim + (-1,))
        return jnp.minimum(edges, len(self.child_nodes) - 1), edges < end

    def by_token(
        self, scores: Float[Array, "b q f"], edges: Int[Array, "b q f"], exists: Bool[Array, "b q f"], vocab_size: int
    ) -> Float[Array, "b q v"]:
        """Move scores of children to the tokens that lead to them; all other tokens get :data:`IMPOSSIBLE`.

        Args:
            scores: Score of the child at the end of each edge.
            edges: Edges of each position's node, from :meth:`edges_of`.
            exists: Which of them exist.
            vocab_size: Number of tokens.
        """
        # Edges that do not exist get distinct tokens past the vocabulary, which the scatter drops.
        beyond = vocab_size + jnp.arange(edges.shape[2])[None, None]
        tokens = jnp.where(exists, self.child_tokens[edges], beyond)
        b, q = jnp.arange(edges.shape[0])[:, None, None], jnp.arange(edges.shape[1])[None, :, None]
        empty = jnp.full((*edges.shape[:2], vocab_size), IMPOSSIBLE, jnp.float32)
        return empty.at[b, q, tokens].set(scores, mode="drop", unique_indices=True)


def _fanouts(offsets: np.ndarray, children: np.ndarray) -> tuple[int, ...]:
    """Return the largest number of edges of a node at each depth but the last, which has only leaves."""
    widest, level = [], np.zeros(1, np.int64)
    while True:
        fanout = offsets[level + 1] - offsets[level]
        widest.append(int(fanout.max(initial=0)))
        if widest[-1] == 0:
            return tuple(widest[:-1]) or (0,)
        begins = np.cumsum(fanout) - fanout
        level = children[np.repeat(offsets[level] - begins, fanout) + np.arange(fanout.sum())]


def _first_of_consecutive(numbers: np.ndarray) -> int:
    return int(numbers[0]) if len(numbers) and bool(np.all(np.diff(numbers) == 1)) else -1


class VocabularyHead(nn.Module):
    """T5's head: it reads token embeddings, and writes by a dense layer or by the same embedding.

    Attributes:
        config: The network's shape.
        embedding: The decoder's token embedding.
    """

    config: T5Config
    embedding: Embed

    def embed(self, tokens: Int[Array, "b m"], nodes: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
        """Return the vectors of the decoder's input tokens."""
        return self.embedding(tokens)

    @nn.compact
    def logits(
        self,
        hidden: Float[Array, "b m d"],
        nodes: Int[Array, "b m"] | None,
        tree: NodeTree | None,
        at_root: bool | None = None,
        columns: Columns = None,
    ) -> Float[Array, "b m v"]:
        """Return the logits of all tokens, or of those in ``columns``, in float32."""
        if self.config.tie_embeddings:
            return self.embedding.attend(hidden, columns)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        shape = (self.config.d_model, self.config.output_vocab_size)
        kernel = param_with_axes("kernel", init, shape, jnp.float32, axes=("embed", "vocab"))
        return project(hidden.astype(jnp.float32), kernel if columns is None else _columns(kernel, columns))


class PrefixHead(nn.Module):
    """A head with a vector per tree node, so that the meaning of a code depends on its prefix.

    The logit of a code after a prefix is the inner product of the decoder's state with the vector of the node that the
    code leads to; codes that lead to no node get :data:`IMPOSSIBLE`. The decoder reads the vector of its current node
    instead of a token's. This is the idea of NCI's prefix-aware decoder (Wang et al. 2022, arXiv 2206.02743, section
    3.3), with a table instead of a network. Atomic docids are the special case of one level.

    With ``root_lookahead``, the logit of a first code is the log-sum-exp of the inner products with the children of the
    node that it leads to (a leaf counts itself). One vector cannot represent all documents of a large cluster, and
    most errors of a ranking happen at the first code. The children represent the cluster more finely, at the cost of
    inner products with at most fan-out squared vectors, whatever the size of the corpus.

    With ``shared_codes``, a node's vectors are the sum of the vectors of the token that leads to it, which all nodes of
    that token share, and of its own vectors, which begin at zero.

    With whole items, these are also the vectors by which the encoder reads items
    (:class:`~genret_jax.models.item_input.WholeItems`), as SASRec uses the same vectors for its input and output (Kang
    & McAuley 2018, arXiv 1808.09781, section III-E). An item's vector is the sum along its path, so a node is scored
    by the sum of the vectors up to it. Nodes of one parent share all terms but the last: a softmax over them does not
    depend on the shared terms, but lookahead does.

    Attributes:
        config: The network's shape.
        items: The vectors of whole items; None without whole items or shared codes.
    """

    config: T5Config
    items: WholeItems | None = None

    def setup(self) -> None:
        """Declare the tables; tied embeddings have one table for input and output."""
        width, shared = self.config.d_model, self.config.shared_codes
        if self.items is not None:
            self.input_nodes = self.output_nodes = self.items.nodes
            self.input_codes = self.output_codes = self.items.embedding
            return
        self.input_nodes = self._table("input_nodes", width, 0.0 if shared else 1.0)
        self.output_nodes = (
            self.input_nodes
            if self.config.tie_embeddings
            else self._table("output_nodes", width, 0.0 if shared else width**-0.5)
        )
        if shared:
            self.input_codes = Embed(self.config.output_vocab_size, width, self.config.compute_dtype)
            self.output_codes = Embed(self.config.output_vocab_size, width, deviation=width**-0.5)

    def _table(self, name: str, width: int, deviation: float) -> Float[Array, "s d"]:
        shape, init = (self.config.num_nodes, width), nn.initializers.normal(stddev=deviation)
        return param_with_axes(name, init, shape, jnp.float32, axes=("nodes", "embed"), module=self)

    def embed(self, tokens: Int[Array, "b m"], nodes: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
        """Return the vectors of the prefixes' nodes; the vector of the root is the start symbol."""
        if nodes is None:
            raise ValueError("the prefix head needs decoder_prefix_nodes")
        own = jnp.take(self.input_nodes, nodes, axis=0, mode="clip").astype(self.config.compute_dtype)
        return own + self.input_codes(tokens) if self.config.shared_codes else own

    def logits(
        self,
        hidden: Float[Array, "b m d"],
        nodes: Int[Array, "b m"] | None,
        tree: NodeTree | None,
        at_root: bool | None = None,
        columns: Columns = None,
    ) -> Float[Array, "b m v"]:
        """Return logits over the decoder's vocabulary, in float32.

        At the root, the logits are one dense product with the root's children. Later positions have a small fan-out
        and gather the rows of their children: as many as the largest fan-out at that depth.

        Args:
            hidden: States of the decoder.
            nodes: Tree node of each state.
            tree: Docid tree.
            at_root: Whether all states are at the root, or none is; None for whole sequences, whose first is.
            columns: First logit and number of logits to return; by default all.
        """
        if nodes is None or tree is None:
            raise ValueError("the prefix head needs decoder_prefix_nodes and the tree they belong to")
        hidden = hidden.astype(jnp.float32)
        if at_root is None:
            parts = [self._root_logits(hidden[:, :1], tree)]
            for begin, end, window in depth_windows(tree.fanouts, hidden.shape[1]):
                parts.append(self._later_logits(hidden[:, begin:end], nodes[:, begin:end], tree, window))
            logits = jnp.concatenate(parts, axis=1)
        elif at_root:
            logits = self._root_logits(hidden, tree)
        else:
            logits = self._later_logits(hidden, nodes, tree, tree.max_fanout)
        return logits if columns is None else _columns(logits, columns)

    def _root_logits(self, hidden: Float[Array, "b q d"], tree: NodeTree) -> Float[Array, "b q v"]:
        fanout, vocab_size = tree.root_fanout, self.config.output_vocab_size
        shared = self._of_codes(hidden)
        if tree.rows_are_logits and self.config.num_nodes == vocab_size:
            scores = project(hidden, self.output_nodes.T)
            nth = jnp.arange(vocab_size) - tree.root_first_token
            if shared is not None:
                scores += shared
            scores = jnp.where((nth >= 0) & (nth < fanout), scores, IMPOSSIBLE)
            return constrain(scores, "batch", "length", "vocab")
        ahead = self.config.root_lookahead and tree.max_fanout > 0
        first, nodes, tokens = tree.root_first_node, tree.child_nodes[:fanout], tree.child_tokens[:fanout]
        if ahead:
            first, nodes, tokens = tree.first_lookahead_node, tree.lookahead_nodes, tree.lookahead_tokens
        scores = project(hidden, _rows(self.output_nodes, first, nodes).T)
        if shared is not None:
            scores += jnp.take(shared, tokens, axis=-1)
            if ahead and self.items is not None:
                firsts = tree.child_nodes[:fanout]
                above = project(hidden, _rows(self.output_nodes, tree.root_first_node, firsts).T)
                above += jnp.take(shared, tree.child_tokens[:fanout], axis=-1)
                fanout_of = tree.child_offsets[firsts + 1] - tree.child_offsets[firsts]
                above = jnp.where(fanout_of > 0, above, 0.0)  # a leaf is its own lookahead
                scores += jnp.repeat(above, jnp.maximum(fanout_of, 1), axis=-1, total_repeat_length=len(tokens))
        if ahead:
            scores = jnp.pad(scores, ((0, 0), (0, 0), (0, 1)), constant_values=IMPOSSIBLE)
            scores = jax.nn.logsumexp(scores[..., tree.lookahead_windows], axis=-1)
        if tree.root_first_token >= 0:
            around = (tree.root_first_token, vocab_size - tree.root_first_token - fanout)
            return jnp.pad(scores, ((0, 0), (0, 0), around), constant_values=IMPOSSIBLE)
        empty = jnp.full((*hidden.shape[:-1], vocab_size), IMPOSSIBLE, jnp.float32)
        return empty.at[..., tree.child_tokens[:fanout]].set(scores, mode="drop", unique_indices=True)

    def _later_logits(
        self,
        hidden: Float[Array, "b q d"],
        nodes: Int[Array, "b q"],
        tree: NodeTree,
        window: int,
    ) -> Float[Array, "b q v"]:
        vocab_size = self.config.output_vocab_size
        if window == 0:
            return jnp.full((*nodes.shape, vocab_size), IMPOSSIBLE, jnp.float32)
        edges, exists = tree.edges_of(nodes, window)
        children = tree.child_nodes[edges]  # --> [b, q, fanout]
        logits = tree.by_token(_scores_of(hidden, self.output_nodes, children), edges, exists, vocab_size)
        shared = self._of_codes(hidden)
        return logits if shared is None else logits + shared

    def _of_codes(self, hidden: Float[Array, "b q d"]) -> Float[Array, "b q v"] | None:
        """Return the part of the logits that comes from the tokens' vectors, the same after any prefix."""
        if not self.config.shared_codes:
            return None
        return self.output_codes.attend(hidden, (0, self.config.output_vocab_size))


def depth_windows(fanouts: tuple[int, ...], length: int) -> list[tuple[int, int, int]]:
    """Return (begin, end, number of edges) for runs of later positions; depths of similar fan-out share a run."""
    padded = [0, *fanouts[1:length], *[0] * (length - len(fanouts))]
    runs = itertools.groupby(range(1, length), key=lambda depth: padded[depth].bit_length())
    spans = [list(run) for _, run in runs]
    return [(span[0], span[-1] + 1, max(padded[depth] for depth in span)) for span in spans]


def _columns(array: Float[Array, "*q v"], columns: tuple[Int[Array, ""] | int, int]) -> Float[Array, "*q w"]:
    """Return a range of columns."""
    return jax.lax.dynamic_slice_in_dim(array, *columns, axis=-1)


def _rows(table: Float[Array, "s d"], first: int, nodes: Int[Array, " g"]) -> Float[Array, "g d"]:
    """Return the rows of some nodes; without a copy if the nodes are consecutive, beginning with ``first``."""
    return table[first : first + len(nodes)] if first >= 0 else jnp.take(table, nodes, axis=0, mode="clip")


def _scores_of(
    x: Float[Array, "b q d"], table: Float[Array, "s d"], nodes: Int[Array, "b q f"]
) -> Float[Array, "b q f"]:
    """Return inner products with some rows at each position: gather the rows, or multiply all and gather products."""
    if len(table) <= _ROW_COST * nodes.shape[-1]:
        return jnp.take_along_axis(project(x, table.T), nodes, axis=-1, mode="clip")
    return jnp.einsum("bqd,bqfd->bqf", x, jnp.take(table, nodes, axis=0, mode="clip"))
