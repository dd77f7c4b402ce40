"""The network's side of a plan: a score for every docid, from a query's vector and its words.

Three kinds of scores add up. Each begins as a ranking that needs no training:

* *codes*: the sum of one logit per level and code, predicted in parallel. It has no parameter per document and begins
  as the inner products of an additive quantiser.
* *lexical*: the weights of the query's terms in the document. It begins as BM25.
* *dense*: the inner product of the query's vector with one vector per document, the encoder's own at the start.
  Beside words it counts in units of the highest lexical score that a document could have for the query. So neither
  side drowns the other, however long queries are and however many documents there are (Bruch et al. 2023, "An Analysis
  of Fusion Functions for Hybrid Retrieval", arXiv 2210.11934, section 4).

:class:`genret_jax.decoding.Plan` folds the scores into every step of a search. PAG (Zeng et al. 2024, arXiv 2404.14600)
plans by lexical codes, RPG (Hou et al. 2025, arXiv 2506.05781) by parallel codes.
"""

import functools
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float, Int, Shaped

from genret_jax.models.config import T5Config
from genret_jax.models.layers import project
from genret_jax.models.quantised import scaled_products

#: The unit of inner products, in BM25 points, for a query whose words no document has.
LEAST_UNIT = 1.0
# Postings that are added up in one pass of the loop over a batch's postings.
_POSTINGS_AT_ONCE = 1 << 14


@typing.no_type_check
@struct.dataclass
class PlanTables:
    """The facts of a plan about the docids, numbered as in the docid index; None where its kind is not used.

    Attributes:
        codes: int32 [n, m]; the decoder's tokens of each docid, padded with 0.
        vectors: [n, d] in bfloat16, or in int8 with ``scales``; a vector of each docid.
        scales: float32 [n]; factor of each int8 vector.
        postings: int32 [p]; the docids that each term occurs in, one term after the other.
        weights: float32 [p]; the weight of the term in that docid.
        highest: float32 [t]; the highest weight of each term in any docid.
        offsets: int32 [t + 1]; where the postings of each term begin; term 0 is padding and has none.
        bias: float32 [n]; added to the lexical score of each docid.
    """

    codes: Any = None
    vectors: Any = None
    postings: Any = None
    weights: Any = None
    offsets: Any = None
    highest: Any = None
    bias: Any = None
    scales: Any = None

    @classmethod
    def empty(cls, config: T5Config) -> "PlanTables":
        """Return tables of one docid, to initialise parameters."""
        number, one = jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.float32)
        offsets = jnp.zeros(2, jnp.int32)
        vectors = jnp.zeros((1, config.d_model), jnp.float32)
        return cls(number[None], vectors, number, one, offsets, one, one)

    @property
    def num_docids(self) -> int:
        """Number of docids, with those that an index has room for."""
        return int(self.bias.shape[0])

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


@typing.no_type_check
@struct.dataclass
class LeftOut:
    """Changes of each target's score that leave out what the target knows from the example's own query.

    The lexical weights of a document hold the words of its training queries, and its vector may hold theirs. In
    training, the target would be found by its own query. Leaving that out also shows how a document without queries
    fares among those that have some.

    Attributes:
        docid: int32 [b]; number of the target.
        terms: float32 [b, t]; change of the target's weight for each term of the query.
        vectors: [b, d]; change of the target's vector; None for none.
        bias: float32 [b]; change of the target's bias.
    """

    docid: Any
    terms: Any
    vectors: Any
    bias: Any


class DocidPlan(nn.Module):
    """Scores all docids for each query of a batch.

    Attributes:
        config: The network's shape, with a ``plan``.
    """

    config: T5Config

    def setup(self) -> None:
        """Declare the weights of the kinds in use."""
        config = self.config
        kinds = config.plan
        assert kinds is not None
        if kinds.codes:
            shape = (config.d_model, config.output_vocab_size)
            init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            self.codes = param_with_axes("codes", init, shape, jnp.float32, axes=("embed", "vocab"), module=self)
            zeros = nn.initializers.zeros
            self.code_bias = param_with_axes("code_bias", zeros, shape[1:], jnp.float32, axes=("vocab",), module=self)
            self.code_scale = self._scale("code_scale")
        if kinds.terms:
            zeros = nn.initializers.zeros
            rows = (kinds.vocabulary,)
            self.term_weights = param_with_axes("term_weights", zeros, rows, jnp.float32, axes=("terms",), module=self)
            self.lexical_scale = self._scale("lexical_scale")
        if kinds.dense:
            self.dense_scale = self._scale("dense_scale")

    def _scale(self, name: str) -> Float[Array, ""]:
        return param_with_axes(name, nn.initializers.ones, (), jnp.float32, axes=(), module=self)

    def __call__(
        self,
        vectors: Float[Array, "b d"],
        terms: Int[Array, "b t"],
        tables: PlanTables,
        left_out: LeftOut | None = None,
    ) -> Float[Array, "b n"]:
        """Return the score of each docid for each query, a logarithm of its unnormalised probability.

        Args:
            vectors: Vectors of the queries.
            terms: Terms of the queries, padded with 0.
            tables: The docids.
            left_out: Changes of the scores of targets in training.
        """
        kinds = self.config.plan
        assert kinds is not None
        vectors = vectors.astype(jnp.float32)
        scores, change = jnp.zeros((len(vectors), tables.num_docids)), jnp.zeros(len(vectors))
        if kinds.codes:
            logits = self.code_scale * project(vectors, self.codes) + self.code_bias[None]
            logits = logits.at[:, 0].set(0.0)  # padding of shorter docids
            levels = (jnp.take(logits, codes, axis=1, mode="clip") for codes in tables.codes.T)
            scores += sum(levels)
        unit: Array = jnp.ones(len(vectors))
        if kinds.terms:
            weights = self.lexical_scale * jnp.exp(jnp.take(self.term_weights, terms, mode="clip")) * (terms > 0)
            scores += lexical_scores(weights, terms, tables) + self.lexical_scale * tables.bias[None]
            highest = jnp.sum(weights * jnp.take(tables.highest, terms, mode="clip"), axis=1)
            unit = jnp.maximum(highest, self.lexical_scale * LEAST_UNIT)
            if left_out is not None:
                change += jnp.sum(weights * left_out.terms, axis=1) + self.lexical_scale * left_out.bias
        if kinds.dense:
            factor = self.dense_scale * unit
            scores += factor[:, None] * inner_products(vectors, tables.vectors, tables.scales)
            if left_out is not None and left_out.vectors is not None:
                change += factor * jnp.sum(vectors * left_out.vectors.astype(jnp.float32), axis=1)
        return scores if left_out is None else scores.at[jnp.arange(len(scores)), left_out.docid].add(change)


def inner_products(
    vectors: Float[Array, "b d"], rows: Shaped[Array, "n d"], scales: Float[Array, " n"] | None
) -> Float[Array, "b n"]:
    """Return the inner products of queries and documents, in float32.

    Args:
        vectors: Vectors of the queries.
        rows: Vectors of the documents.
        scales: Factor of each row of int8; None for rows of another type.
    """
    if scales is not None:
        return scaled_products(vectors, rows, scales)
    if len(vectors) == 1:  # on CPUs, XLA has a fast product of bfloat16 for two vectors and more, not for one
        return inner_products(jnp.pad(vectors, ((0, 1), (0, 0))), rows, None)[:1]
    return jnp.einsum("bd,nd->bn", vectors.astype(rows.dtype), rows, preferred_element_type=jnp.float32)


def lexical_scores(weights: Float[Array, "b t"], terms: Int[Array, "b t"], tables: PlanTables) -> Float[Array, "b n"]:
    """Add up the postings of each query's terms; the gradient reaches the weights alone.

    Args:
        weights: Weight of each term in the query.
        terms: The terms, padded with 0.
        tables: The postings.
    """
    arrays = (jnp.asarray(array) for array in (tables.postings, tables.weights, tables.offsets))
    return _summed(weights, terms, *arrays, tables.num_docids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _summed(weights: Array, terms: Array, postings: Array, impacts: Array, offsets: Array, docids: int) -> Array:
    total, read = _reader(terms, postings, impacts, offsets)

    def add(part: Array, scores: Array) -> Array:
        pair, docid, impact = read(part)
        return scores.at[pair // terms.shape[1], docid].add(impact * weights.reshape(-1)[pair])

    zeros = jnp.zeros((len(terms), docids), jnp.float32)
    return jax.lax.fori_loop(0, -(-total // _POSTINGS_AT_ONCE), add, zeros)


def _forward(weights: Array, *tables: Any) -> tuple[Array, tuple[Any, ...]]:
    return _summed(weights, *tables), tables[:4]


def _backward(docids: int, tables: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    terms = tables[0]
    total, read = _reader(*tables)

    def add(part: Array, weights: Array) -> Array:
        pair, docid, impact = read(part)
        return weights.at[pair].add(impact * gradient[pair // terms.shape[1], docid])

    summed = jax.lax.fori_loop(0, -(-total // _POSTINGS_AT_ONCE), add, jnp.zeros(terms.size, jnp.float32))
    return summed.reshape(terms.shape), None, None, None, None


_summed.defvjp(_forward, _backward)


def _reader(
    terms: Array, postings: Array, impacts: Array, offsets: Array
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """Lay the postings of all terms of a batch one after the other; return how many there are, and how to read a part.

    A part is its number. Of each posting it has the number of its query's term within the batch, its docid and its
    weight, which is 0 beyond the end.
    """
    flat = terms.reshape(-1)
    begins = offsets[flat]
    ends = jnp.cumsum(offsets[flat + 1] - begins)
    shift = begins - jnp.pad(ends, (1, 0))[:-1]

    def read(part: Array) -> tuple[Array, Array, Array]:
        place = part * _POSTINGS_AT_ONCE + jnp.arange(_POSTINGS_AT_ONCE)
        pair = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(flat) - 1)
        posting = jnp.minimum(shift[pair] + place, len(postings) - 1)
        return pair, postings[posting], jnp.where(place < ends[-1], impacts[posting], 0.0)

    return ends[-1], read
