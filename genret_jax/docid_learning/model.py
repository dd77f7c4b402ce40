"""The network that writes docids in GenRet (Sun et al. 2023, arXiv 2304.04171, section 3.1).

At every position of a docid, the network compares its decoder state with the vectors of a codebook, and takes the code
with the largest inner product. A code is a token of the decoder: its vector is a row of the output layer, and when the
code is part of a prefix, the decoder reads it by an input vector. :class:`Codebooks` knows where these are.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.quantiser import Quantiser
from genret_jax.models.config import T5Config
from genret_jax.models.encoders.config import BertConfig, SentenceForm
from genret_jax.models.network import T5
from genret_jax.models.shapes import decoder_embedding

_BATCH_SIZE = 256  # documents that are read at a time
# Layers with an entry per token, and the axis of the tokens in their arrays.
_TOKEN_AXES = {"token_embedder": 0, "decoder_token_embedder": 0, "logits_dense": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codebooks:
    """The tokens of a network that are codes, and their places in its parameters.

    Attributes:
        config: The network, with the vocabulary head.
        first_token: Token of the first code of the first level; the tokens of further codes and levels follow.
        level_sizes: Number of codes of every level.
    """

    config: T5Config
    first_token: int
    level_sizes: tuple[int, ...]

    def token_range(self, level: int) -> tuple[int, int]:
        """Return the first token of a level and the number of its tokens."""
        return self.first_token + sum(self.level_sizes[:level]), self.level_sizes[level]

    @property
    def scale(self) -> float:
        """Divisor that turns inner products of states and codebook vectors into logits."""
        # T5 1.1 has this factor in its output rows; T5 1.0 scales its states.
        return float(self.config.d_model**0.5)

    def vectors(self, params: Mapping[str, Any], level: int) -> Float[Array | np.ndarray, "c d"]:
        """Return the codebook of a level, at the scale of the decoder's states."""
        first, number = self.token_range(level)
        if self.config.tie_embeddings:
            rows = decoder_embedding(params)[first : first + number]
        else:
            rows = params["decoder"]["logits_dense"]["kernel"][:, first : first + number].T
        return rows if self.config.scale_decoder_outputs else rows * self.scale

    def with_vectors(
        self,
        params: Mapping[str, Any],
        level: int,
        vectors: Mapping[int, Float[np.ndarray, " d"]],
        *,
        input_norm: float | None = None,
    ) -> dict[str, Any]:
        """Return a copy of the parameters with new codebook vectors.

        The input vector of such a code gets the same direction.

        Args:
            params: Parameters of the network.
            level: Level of the codes.
            vectors: New vector of each changed code, at the scale of the decoder's states.
            input_norm: Norm of the input vectors; by default the mean norm in the level.
        """
        first, number = self.token_range(level)
        changed: dict[str, Any] = jax.tree.map(lambda leaf: np.array(leaf), dict(params))
        inputs = decoder_embedding(changed)
        norm = np.linalg.norm(inputs[first : first + number], axis=1).mean() if input_norm is None else input_norm
        for code, vector in vectors.items():
            row = vector if self.config.scale_decoder_outputs else vector / self.scale
            inputs[first + code] = norm * vector / max(float(np.linalg.norm(vector)), 1e-9)
            if self.config.tie_embeddings:
                inputs[first + code] = row
            else:
                changed["decoder"]["logits_dense"]["kernel"][:, first + code] = row
        return changed


@functools.partial(jax.jit, static_argnames=("books", "level"))
def decoder_states(
    params: Mapping[str, Any],
    documents: Int[Array | np.ndarray, "n l"],
    codes: Int[Array | np.ndarray, "n m"],
    books: Codebooks,
    level: int,
) -> Float[Array, "n d"]:
    """Return the decoder states that are compared with the codebook of a level.

    Args:
        params: Parameters of the network.
        documents: Tokens, padded with 0.
        codes: Codes of each document; the decoder reads those before the level.
        books: The codebooks.
        level: Level of the codebook.
    """

    def read(model: T5, documents: Array, codes: Array) -> Array:
        return _state(model, books, model.encode(documents), documents, codes, level)[:, 0]

    return _in_batches(read, books, params, documents, codes)


@functools.partial(jax.jit, static_argnames=("books", "known"))
def predict_codes(
    params: Mapping[str, Any],
    documents: Int[Array | np.ndarray, "n l"],
    codes: Int[Array | np.ndarray, "n m"],
    books: Codebooks,
    known: int = 0,
) -> Int32[Array, "n m"]:
    """Return the codes that the network writes for documents, greedily from left to right.

    Args:
        params: Parameters of the network.
        documents: Tokens, padded with 0.
        codes: Codes of each document; the first ``known`` of them are kept.
        books: The codebooks.
        known: Number of levels that are kept.
    """

    def write(model: T5, documents: Array, codes: Array) -> Array:
        encoded = model.encode(documents)
        for level in range(known, len(books.level_sizes)):
            state = _state(model, books, encoded, documents, codes, level)
            chosen = jnp.argmax(model.read(state, books.token_range(level))[:, 0], axis=-1)
            codes = codes.at[:, level].set(chosen)
        return codes

    return _in_batches(write, books, params, documents, codes)


def _in_batches(method: Any, books: Codebooks, params: Any, documents: Any, codes: Any) -> Any:
    """Apply a method of the network to all documents in batches, so that memory does not grow with their number."""
    number, size = len(documents), min(len(documents), _BATCH_SIZE)

    def batches(rows: Array) -> Array:  # [n, ...] --> [batches, size, ...]
        padded = jnp.pad(rows, ((0, -number % size), (0, 0)))
        return padded.reshape(-1, size, rows.shape[1])

    def of_batch(rows: tuple[Array, Array]) -> Any:
        return T5(books.config).apply({"params": params}, *rows, method=method)

    results = jax.lax.map(of_batch, (batches(documents), batches(codes)))
    return results.reshape(-1, *results.shape[2:])[:number]


def _state(
    model: T5, books: Codebooks, encoded: Array, documents: Array, codes: Array, level: int
) -> Float[Array, "b 1 d"]:
    """Return the decoder's state after the codes before a level."""
    inputs = decoder_inputs(books, codes)[:, : level + 1]
    return model.states(encoded, documents, inputs)[:, level:]


def decoder_inputs(books: Codebooks, codes: Any) -> Any:
    """Return the decoder's input tokens for codes: 0, then the tokens of all codes but the last; 0 for unknown codes.

    Args:
        books: The codebooks.
        codes: Codes of each document [b, m], -1 where unknown; NumPy or JAX.
    """
    first = np.array([books.token_range(level)[0] for level in range(codes.shape[1])], np.int32)
    module = np if isinstance(codes, np.ndarray) else jnp
    tokens = module.where(codes >= 0, first[None] + codes, 0)[:, :-1]
    return module.pad(tokens, ((0, 0), (1, 0)))


class DocidModel(Quantiser):
    """The network of learned docids, which gives later documents their docids.

    Its input is not vectors but the documents' tokens from the run's vocabulary, ``settings["length"]`` of them,
    padded with 0.
    """

    name = "learned"

    @classmethod
    def from_parameters(cls, params: Mapping[str, Any], books: Codebooks, *, length: int) -> "DocidModel":
        """Make the model from trained parameters.

        Args:
            params: Parameters of the network.
            books: The codebooks.
            length: Number of tokens to read from a document.
        """
        flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(params)), sep=".")
        settings = {"model": dataclasses.asdict(books.config), "first_token": books.first_token, "length": length}
        return cls(level_sizes=books.level_sizes, arrays=flat, settings=settings)

    @functools.cached_property
    def books(self) -> Codebooks:
        """The codebooks."""
        config = _network(self.settings["model"])
        return Codebooks(config=config, first_token=self.settings["first_token"], level_sizes=self.level_sizes)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the network."""
        nested: dict[str, Any] = flax.traverse_util.unflatten_dict(dict(self.arrays), sep=".")
        return nested

    @property
    def width(self) -> int:
        """Number of tokens that are read from a document."""
        return int(self.settings["length"])

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a batch of documents, given as tokens."""
        params = flax.traverse_util.unflatten_dict(arrays, sep=".")
        unknown = jnp.full((len(piece), len(self.level_sizes)), -1, jnp.int32)
        return predict_codes(params, piece.astype(jnp.int32), unknown, self.books)

    def grown(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a network with more tokens that behaves like this one.

        Args:
            params: Parameters of the larger network; its rows beyond the codes are kept.
        """
        last, number = self.books.token_range(len(self.level_sizes) - 1)

        def merge(path: Any, larger: Any) -> Float32[np.ndarray, "..."]:
            names = [key.key for key in path]
            merged, own = np.array(larger), self.arrays[".".join(names)]
            token_axis = _TOKEN_AXES.get(names[-2])
            overlap = tuple(slice(0, last + number if axis == token_axis else None) for axis in range(own.ndim))
            merged[overlap] = own[overlap]
            return merged

        merged: dict[str, Any] = jax.tree_util.tree_map_with_path(merge, dict(params))
        return merged


def _network(fields: Mapping[str, Any]) -> T5Config:
    """Return a network from its fields as JSON has them."""
    found = _with_tuples(fields)
    for name, kind in (("encoder", BertConfig), ("sentence", SentenceForm)):
        if found.get(name) is not None:
            found[name] = kind(**_with_tuples(found[name]))
    return T5Config(**found)


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
