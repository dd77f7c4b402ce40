"""What a plan knows about documents, brought into the order of their docids."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding import Plan
from genret_jax.docids import EncodedDocids
from genret_jax.models.config import T5Config
from genret_jax.models.heads import IMPOSSIBLE, NodeTree, depth_windows
from genret_jax.models.plan import PlanTables
from genret_jax.models.quantised import quantised


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanDocuments:
    """The facts of a plan about each document; None where its kind is not used.

    Attributes:
        vectors: [n, d]; a vector of each document.
        weights: scipy CSR [n, t]; the weight of each term in each document. Column 0 is padding.
        bias: float32 [n]; added to the score of each document.
    """

    vectors: Any = None
    weights: Any = None
    bias: Any = None

    def tables(self, config: T5Config, docids: EncodedDocids, room_for: int | None = None) -> PlanTables:
        """Return the tables of the docids, in the order of their tokens, as a docid index numbers them.

        A docid that several documents share gets their mean.

        Args:
            config: The network, with its plan.
            docids: The docids of all documents.
            room_for: Number of docids with those to come; by default those that there are.
        """
        kinds = config.plan
        assert kinds is not None
        number, count = docid_numbers(docids)
        rows = count if room_for is None else room_for
        ones = np.ones(len(number), np.float32)
        documents = int(docids.document.max()) + 1
        mean = scipy.sparse.csr_matrix((ones, (number, docids.document)), shape=(rows, documents))
        shared = np.maximum(np.bincount(number, minlength=rows), 1).astype(np.float32)
        mean = scipy.sparse.diags_array(1 / shared) @ mean
        bias = np.zeros(documents, np.float32) if self.bias is None else np.asarray(self.bias, np.float32)
        fields: dict[str, Any] = {"bias": jnp.asarray(mean @ bias, jnp.float32)}
        if kinds.codes:
            codes = np.zeros((rows, docids.tokens.shape[1]), np.int32)
            codes[number] = docids.tokens
            fields["codes"] = jnp.asarray(codes)
        if kinds.dense:
            vectors = mean @ np.asarray(self.vectors, np.float32)
            if kinds.dense_dtype == "int8":
                fields["vectors"], fields["scales"] = map(jnp.asarray, quantised(vectors))
            else:
                fields["vectors"] = jnp.asarray(vectors, jnp.bfloat16)
        if kinds.terms:
            by_term = scipy.sparse.csc_array(mean @ self.weights)
            by_term.sort_indices()
            fields["postings"] = jnp.asarray(np.append(by_term.indices, 0), jnp.int32)
            fields["weights"] = jnp.asarray(np.append(by_term.data, 0.0), jnp.float32)
            fields["offsets"] = jnp.asarray(by_term.indptr, jnp.int32)
            fields["highest"] = jnp.asarray(by_term.max(axis=0).toarray().ravel(), jnp.float32)
        return PlanTables(**fields)


def docid_numbers(docids: EncodedDocids) -> tuple[Int[np.ndarray, " r"], int]:
    """Return the number of each row's docid among the distinct ones in the order of their tokens, and their count."""
    order = np.lexsort(docids.tokens.T[::-1])
    ordered = docids.tokens[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    return number, int(new.sum())


@typing.no_type_check
@struct.dataclass
class PlannedDocids:
    """The docids of a plan in training, with the range of them below each node of the docid tree.

    Attributes:
        tables: What the plan knows about the docids.
        first: int32 [s]; first docid below each node.
        stop: int32 [s]; the docid after its last.
        shown: bool [n]; docids that training shows. The others have no mass, or they would be learned as never right.
        numbers: int32 [r]; the docid of each row of the example store.
    """

    tables: PlanTables
    first: Array
    stop: Array
    shown: Array
    numbers: Array

    @classmethod
    def of(cls, tables: PlanTables, docids: EncodedDocids, shown: Bool[np.ndarray, " n"]) -> "PlannedDocids":
        """Return the docids of a plan.

        Args:
            tables: From :meth:`PlanDocuments.tables`.
            docids: The docids.
            shown: Documents that training shows.
        """
        number, _ = docid_numbers(docids)
        nodes, rows = docids.visits()
        first = np.full(docids.tree.num_nodes, len(number), np.int32)
        stop = np.zeros(docids.tree.num_nodes, np.int32)
        np.minimum.at(first, nodes, number[rows])
        np.maximum.at(stop, nodes, number[rows] + 1)
        of_docids = np.zeros(tables.num_docids, bool)
        of_docids[number[shown[docids.document]]] = True
        in_store = np.argsort(docids.document, kind="stable")
        return cls(tables, *map(jnp.asarray, (first, stop, of_docids, number[in_store].astype(np.int32))))

    def flat_loss(
        self, scores: Float[Array, "b n"], docids: Int[Array, " b"], weights: Float[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the summed loss of the softmax over all docids, and the number of targets that it finds first.

        This is the loss of the path to each docid, if the decoder says nothing.

        Args:
            scores: The plan's.
            docids: Numbers of the targets.
            weights: Weights of the examples.
        """
        scores = jnp.where(self.shown[None], scores, IMPOSSIBLE)
        chosen = jnp.take_along_axis(scores, docids[:, None], axis=1)[:, 0]
        found = jnp.argmax(scores, axis=1) == docids
        return jnp.sum((jax.nn.logsumexp(scores, axis=1) - chosen) * weights), jnp.sum(found * weights)

    def guided(
        self, logits: Float[Array, "b m v"], scores: Float[Array, "b n"], nodes: Int[Array, "b m"], tree: NodeTree
    ) -> Float[Array, "b m v"]:
        """Add to the logits of each continuation what the plan says; tokens without a child become impossible.

        Args:
            logits: The decoder's.
            scores: The plan's.
            nodes: The tree's node before each token.
            tree: The docid tree.
        """
        plan = Plan.of(scores, self.shown[None])
        parts, (_, length, vocab_size) = [], logits.shape
        for begin, end, window in [(0, 1, tree.root_fanout), *depth_windows(tree.fanouts, length)]:
            at = slice(begin, end)
            if not window:
                parts.append(jnp.full_like(logits[:, at], IMPOSSIBLE))
                continue
            edges, exists = tree.edges_of(nodes[:, at], window)
            children = tree.child_nodes[edges]  # --> [b, q, f]
            mass = plan.of_ranges(self.first[children], self.stop[children])
            own = jnp.take_along_axis(logits[:, at], tree.child_tokens[edges], axis=-1)
            parts.append(tree.by_token(own + mass, edges, exists, vocab_size))
        return jnp.concatenate(parts, axis=1)
