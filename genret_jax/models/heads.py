"""What the decoder reads and writes: tokens of a vocabulary, or nodes of the docid tree.

Both heads have the same three methods, so the decoder does not know which one it has:

* ``embed(tokens, nodes)``: the decoder's input vectors;
* ``logits(hidden, nodes, tree)``: of a teacher-forced sequence, whose position 0 is always at the root;
* ``step_logits(hidden, nodes, tree, at_root)``: of one position of every beam.
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

# Finite, so that a weight of zero times the loss of an impossible token is zero and not NaN.
IMPOSSIBLE = -1e7
# First and number of the logits that are wanted; None for all.
Columns = tuple[Int[Array, ""] | int, int] | None
# Reading a row of a table that is scattered over the memory takes as long as some such number of inner products.
_READING = 32


@typing.no_type_check
@struct.dataclass
class NodeTree:
    """The docid tree as device arrays, in compressed rows: node ``x`` has the edges ``child_offsets[x:x+2]``.

    Attributes:
        child_offsets: int32 [s + 1]; where the edges of each node begin.
        child_nodes: int32 [e]; the node at the end of each edge.
        child_tokens: int32 [e]; the decoder token of each edge, ascending within a node.
        fanouts: Most edges of a node at each depth, the root first; static.
        root_first_node: Id of the root's first child where its children have consecutive ids, else -1; static.
        root_first_token: Its token where the tokens are consecutive, else -1; static.
        judges: int32 [g]; for each child of the root in turn its children, or itself where it has none.
        lookahead_tokens: int32 [g]; the tokens that lead to them.
        lookahead_windows: int32 [root_fanout, w]; positions in ``judges``, filled up with g.
        first_lookahead_node: The first judge where their ids are consecutive, else -1; static.
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
        """Make a tree from host arrays and work out what is static about it."""
        offsets, nodes, tokens = np.asarray(child_offsets), np.asarray(child_nodes), np.asarray(child_tokens)
        fanout = np.diff(offsets)
        firsts = nodes[: fanout[0]]
        judged = np.maximum(fanout[firsts], 1)
        begins = np.cumsum(judged) - judged
        inner = np.repeat(fanout[firsts] > 0, judged)
        edges = np.repeat(offsets[firsts] - begins, judged) + np.arange(len(inner))
        # Of a leaf, its own edge from the root.
        edges = np.where(inner, edges, np.repeat(np.arange(fanout[0]), judged))
        judges = nodes[edges]
        window = np.arange(judged.max(initial=1))
        lookahead_windows = np.where(window < judged[:, None], begins[:, None] + window, len(judges))
        return cls(
            child_offsets=jnp.asarray(offsets, jnp.int32),
            child_nodes=jnp.asarray(nodes, jnp.int32),
            child_tokens=jnp.asarray(tokens, jnp.int32),
            lookahead_nodes=jnp.asarray(judges, jnp.int32),
            lookahead_tokens=jnp.asarray(tokens[edges], jnp.int32),
            lookahead_windows=jnp.asarray(lookahead_windows, jnp.int32),
            fanouts=_fanouts(offsets, nodes),
            root_first_node=_first_of_consecutive(firsts),
            root_first_token=_first_of_consecutive(tokens[: fanout[0]]),
            first_lookahead_node=_first_of_consecutive(judges),
        )

    @property
    def root_fanout(self) -> int:
        """Edges of the root."""
        return self.fanouts[0]

    @property
    def max_fanout(self) -> int:
        """Most edges of any other node."""
        return max(self.fanouts[1:], default=0)

    @property
    def rows_are_logits(self) -> bool:
        """Whether all docids are of one code, and nodes numbered as the tokens that lead to them, without a gap."""
        return self.max_fanout == 0 and self.root_first_node == self.root_first_token > 0

    def edges_of(self, nodes: Int[Array, "*q"], window: int) -> tuple[Int[Array, "*q f"], Bool[Array, "*q f"]]:
        """Return for each of some nodes, none of them the root, a window of so many edges, and which exist."""
        start = jnp.take(self.child_offsets, nodes, mode="clip")[..., None]
        end = jnp.take(self.child_offsets, nodes + 1, mode="clip")[..., None]
        edges = start + jnp.arange(window, dtype=jnp.int32).reshape((1,) * nodes.ndim + (-1,))
        return jnp.minimum(edges, len(self.child_nodes) - 1), edges < end


def _fanouts(offsets: np.ndarray, children: np.ndarray) -> tuple[int, ...]:
    """Return the most edges of a node at each depth, without the last, where there are only leaves."""
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
    """T5's own: token embeddings in, a dense layer (or the embedding again) out.

    Attributes:
        config: The network's shape.
        embedding: The decoder's token embedding.
    """

    config: T5Config
    embedding: Embed

    def embed(self, tokens: Int[Array, "b m"], nodes: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
        """Look the decoder's input tokens up."""
        return self.embedding(tokens)

    @nn.compact
    def logits(
        self,
        hidden: Float[Array, "b m d"],
        nodes: Int[Array, "b m"] | None,
        tree: NodeTree | None,
        lexical: Float[Array, "b w"] | None = None,
        columns: Columns = None,
    ) -> Float[Array, "b m v"]:
        """Return a logit for every token of the vocabulary, or of some columns of it, in float32."""
        if self.config.tie_embeddings:
            return self.embedding.attend(hidden, columns)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        shape = (self.config.d_model, self.config.output_vocab_size)
        kernel = param_with_axes("kernel", init, shape, jnp.float32, axes=("embed", "vocab"))
        return project(hidden.astype(jnp.float32), kernel if columns is None else _columns(kernel, columns))

    def step_logits(
        self,
        hidden: Float[Array, "b k d"],
        nodes: Int[Array, "b k"] | None,
        tree: NodeTree | None,
        lexical: Float[Array, "b w"] | None = None,
        *,
        at_root: bool,
        columns: Columns = None,
    ) -> Float[Array, "b k v"]:
        """Return the logits of one position of every beam."""
        return self.logits(hidden, nodes, tree, lexical, columns)


class PrefixHead(nn.Module):
    """A vector per tree node: the prefix decides what the next code means.

    The logit of a code after a prefix is the inner product with the vector of the node it leads to; codes that lead
    nowhere get :data:`IMPOSSIBLE`. The decoder reads the vector of the node it stands on instead of a token's. The
    idea is that of NCI's prefix-aware decoder (Wang et al. 2022, arXiv 2206.02743, section 3.3), with a table instead
    of a network. Atomic docids are the case of one level.

    With ``root_lookahead``, the logit of a first code is the log-sum-exp of the inner products with the children of
    the node it leads to (a leaf has its own). One vector has to stand for all documents of a large cluster, and the
    first code is where a ranking is lost; the children say more finely what is in it, at the cost of a product with
    at most fan-out squared vectors, whatever the size of the corpus.

    With ``shared_codes``, a node's vectors are the sum of those of the token that leads to it, which it has in common
    with all nodes that the token leads to, and of its own, which begin at zero.

    With whole items these are the vectors that the encoder reads items by (:class:`~genret_jax.models.item_input.
    WholeItems`), as an item's vector is the same in SASRec's input and output (Kang & McAuley 2018, arXiv 1808.09781,
    section III-E). An item is the sum along its path, so a node is scored by the sum that ends with it. Nodes of one
    parent have the rest of it in common, which a softmax over them does not see, and lookahead does.

    Attributes:
        config: The network's shape.
        items: The vectors of whole items; None where there are none or codes are not shared.
    """

    config: T5Config
    items: WholeItems | None = None

    def setup(self) -> None:
        """Declare the tables; one serves as both if the embeddings are tied."""
        width, wide, shared = self.config.d_model, self.config.lexical_width, self.config.shared_codes
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
        if wide:
            self.lexical_nodes = self._table("lexical_nodes", wide, wide**-0.5)

    def _table(self, name: str, width: int, deviation: float) -> Float[Array, "s d"]:
        shape, init = (self.config.num_nodes, width), nn.initializers.normal(stddev=deviation)
        return param_with_axes(name, init, shape, jnp.float32, axes=("nodes", "embed"), module=self)

    def embed(self, tokens: Int[Array, "b m"], nodes: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
        """Look the prefixes' nodes up; the root's row is the start symbol."""
        if nodes is None:
            raise ValueError("the prefix head needs decoder_prefix_nodes")
        own = jnp.take(self.input_nodes, nodes, axis=0, mode="clip").astype(self.config.compute_dtype)
        return own + self.input_codes(tokens) if self.config.shared_codes else own

    def logits(
        self,
        hidden: Float[Array, "b m d"],
        nodes: Int[Array, "b m"] | None,
        tree: NodeTree | None,
        lexical: Float[Array, "b w"] | None = None,
    ) -> Float[Array, "b m v"]:
        """Return ordinary logits over the decoder's vocabulary, in float32.

        Position 0 stands at the root, so it is one dense product with the root's children; only the later positions,
        whose fan-out is small, gather the rows of their children: as many as a node at that depth has at most.
        """
        nodes, tree = _required(nodes, tree)
        parts = [self.step_logits(hidden[:, :1], nodes[:, :1], tree, lexical, at_root=True)]
        for begin, end, window in _windows(tree.fanouts, hidden.shape[1]):
            of_these = hidden[:, begin:end].astype(jnp.float32), nodes[:, begin:end]
            parts.append(self._later_logits(*of_these, tree, lexical, window))
        return jnp.concatenate(parts, axis=1)

    def step_logits(
        self,
        hidden: Float[Array, "b k d"],
        nodes: Int[Array, "b k"] | None,
        tree: NodeTree | None,
        lexical: Float[Array, "b w"] | None = None,
        *,
        at_root: bool,
        columns: Columns = None,
    ) -> Float[Array, "b k v"]:
        """Return the logits of one position of every beam; all of them at the root, or none.

        Args:
            hidden: The decoder's state.
            nodes: The node each beam stands on.
            tree: The docid tree.
            lexical: The lexical vector of each query, where the configuration has them.
            at_root: Whether all nodes are the root.
            columns: First and number of the logits wanted; all when left out.
        """
        nodes, tree = _required(nodes, tree)
        hidden = hidden.astype(jnp.float32)
        if at_root:
            logits = self._root_logits(hidden, tree, lexical)
        else:
            logits = self._later_logits(hidden, nodes, tree, lexical, tree.max_fanout)
        return logits if columns is None else _columns(logits, columns)

    def _root_logits(
        self,
        hidden: Float[Array, "b q d"],
        tree: NodeTree,
        lexical: Float[Array, "b w"] | None,
    ) -> Float[Array, "b q v"]:
        fanout, vocab_size = tree.root_fanout, self.config.output_vocab_size
        shared = self._of_codes(hidden)
        if tree.rows_are_logits and self.config.num_nodes == vocab_size:
            scores = project(hidden, self.output_nodes.T)
            if lexical is not None:
                scores += jax.lax.optimization_barrier(project(lexical, self.lexical_nodes.T))[:, None]
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
        if lexical is not None:
            # Without the barrier XLA for CPU adds the product up in place, from a transposed copy of the table.
            scores += jax.lax.optimization_barrier(project(lexical, _rows(self.lexical_nodes, first, nodes).T))[:, None]
        if shared is not None:
            scores += jnp.take(shared, tokens, axis=-1)
            if ahead and self.items is not None:
                firsts = tree.child_nodes[:fanout]
                above = project(hidden, _rows(self.output_nodes, tree.root_first_node, firsts).T)
                above += jnp.take(shared, tree.child_tokens[:fanout], axis=-1)
                judges = tree.child_offsets[firsts + 1] - tree.child_offsets[firsts]
                above = jnp.where(judges > 0, above, 0.0)  # a leaf judges itself
                scores += jnp.repeat(above, jnp.maximum(judges, 1), axis=-1, total_repeat_length=len(tokens))
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
        lexical: Float[Array, "b w"] | None,
        window: int,
    ) -> Float[Array, "b q v"]:
        vocab_size = self.config.output_vocab_size
        empty = jnp.full((*nodes.shape, vocab_size), IMPOSSIBLE, jnp.float32)
        if window == 0:
            return empty
        edges, exists = tree.edges_of(nodes, window)
        children = tree.child_nodes[edges]  # --> [b, q, fanout]
        scores = _scores_of(hidden, self.output_nodes, children)
        if lexical is not None:  # the same for all beams of a query
            together = children.reshape(len(nodes), 1, -1)
            scores += _scores_of(lexical[:, None], self.lexical_nodes, together).reshape(children.shape)
        # Edges beyond the node's own point past the vocabulary, each elsewhere, and are dropped there.
        tokens = jnp.where(exists, tree.child_tokens[edges], vocab_size + jnp.arange(window)[None, None])
        b, q = jnp.arange(nodes.shape[0])[:, None, None], jnp.arange(nodes.shape[1])[None, :, None]
        logits = empty.at[b, q, tokens].set(scores, mode="drop", unique_indices=True)
        shared = self._of_codes(hidden)
        return logits if shared is None else logits + shared

    def _of_codes(self, hidden: Float[Array, "b q d"]) -> Float[Array, "b q v"] | None:
        """Return what the tokens' own vectors add to the logits, the same after any prefix."""
        if not self.config.shared_codes:
            return None
        return self.output_codes.attend(hidden, (0, self.config.output_vocab_size))


def _required(nodes: Int[Array, "b m"] | None, tree: NodeTree | None) -> tuple[Int[Array, "b m"], NodeTree]:
    if nodes is None or tree is None:
        raise ValueError("the prefix head needs decoder_prefix_nodes and the tree they belong to")
    return nodes, tree


def _windows(fanouts: tuple[int, ...], length: int) -> list[tuple[int, int, int]]:
    """Return runs of positions after the first, each with the edges to read; depths of similar fan-out share a run."""
    padded = [0, *fanouts[1:length], *[0] * (length - len(fanouts))]
    runs = itertools.groupby(range(1, length), key=lambda depth: padded[depth].bit_length())
    spans = [list(run) for _, run in runs]
    return [(span[0], span[-1] + 1, max(padded[depth] for depth in span)) for span in spans]


def _columns(array: Float[Array, "*q v"], columns: tuple[Int[Array, ""] | int, int]) -> Float[Array, "*q w"]:
    """Return some neighbouring columns; of a kernel, without touching the others."""
    return jax.lax.dynamic_slice_in_dim(array, *columns, axis=-1)


def _rows(table: Float[Array, "s d"], first: int, nodes: Int[Array, " g"]) -> Float[Array, "g d"]:
    """Return the rows of some nodes, without copying where they are ``first`` and those after it."""
    return table[first : first + len(nodes)] if first >= 0 else jnp.take(table, nodes, axis=0, mode="clip")


def _scores_of(
    x: Float[Array, "b q d"], table: Float[Array, "s d"], nodes: Int[Array, "b q f"]
) -> Float[Array, "b q f"]:
    """Return inner products with some rows at every position, read one by one or chosen from those with all rows."""
    if len(table) <= _READING * nodes.shape[-1]:
        return jnp.take_along_axis(project(x, table.T), nodes, axis=-1, mode="clip")
    return jnp.einsum("bqd,bqfd->bqf", x, jnp.take(table, nodes, axis=0, mode="clip"))
