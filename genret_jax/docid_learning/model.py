"""A network that writes the docids of documents: what GenRet learns (Sun et al. 2023, arXiv 2304.04171, section 3.1).

Position by position it compares its decoder's state with a codebook, and takes the code of the highest inner product.
Where the codebooks are in the network's parameters is said here, in one place: a code is a token of the decoder, with
a row of the output layer to be compared with, and an input vector by which it is read as part of a prefix.
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
from genret_jax.models.network import T5

_TOGETHER = 256  # documents that are read at a time
# Parts of a network with an entry for each token, and the axis of their arrays on which it is.
_TOKEN_AXES = {"token_embedder": 0, "decoder_token_embedder": 0, "logits_dense": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codebooks:
    """Which tokens of a network are codes, and where its parameters have them.

    Attributes:
        config: The network, with the vocabulary head.
        first_token: The first code of the first level; those of further levels follow.
        level_sizes: Codes of each level.
    """

    config: T5Config
    first_token: int
    level_sizes: tuple[int, ...]

    def tokens(self, level: int) -> tuple[int, int]:
        """Return the first token of a level, and their number."""
        return self.first_token + sum(self.level_sizes[:level]), self.level_sizes[level]

    @property
    def scale(self) -> float:
        """What states are to be divided by so that their inner products are the logits of a state as a code."""
        # T5 1.1 has that factor in its output rows, T5 1.0 beside them.
        return float(self.config.d_model**0.5)

    def vectors(self, params: Mapping[str, Any], level: int) -> Float[Array | np.ndarray, "c d"]:
        """Return the codebook of a level, at the scale of states."""
        first, number = self.tokens(level)
        if self.config.tie_embeddings:
            rows = _input_table(params)["embedding"][first : first + number]
        else:
            rows = params["decoder"]["logits_dense"]["kernel"][:, first : first + number].T
        return rows if self.config.scale_decoder_outputs else rows * self.scale

    def with_vectors(
        self,
        params: Mapping[str, Any],
        level: int,
        vectors: Mapping[int, Float[np.ndarray, " d"]],
        *,
        read_norm: float | None = None,
    ) -> dict[str, Any]:
        """Return parameters with other vectors for some codes of a level.

        As part of a prefix a code is then read by a vector of the same direction.

        Args:
            params: Of the network.
            level: Which.
            vectors: By code, at the scale of states.
            read_norm: Length of the vectors that codes are read by; that of the level's now when left out.
        """
        first, number = self.tokens(level)
        changed: dict[str, Any] = jax.tree.map(lambda leaf: np.array(leaf), dict(params))
        read = _input_table(changed)["embedding"]
        norm = np.linalg.norm(read[first : first + number], axis=1).mean() if read_norm is None else read_norm
        for code, vector in vectors.items():
            row = vector if self.config.scale_decoder_outputs else vector / self.scale
            read[first + code] = norm * vector / max(float(np.linalg.norm(vector)), 1e-9)
            if self.config.tie_embeddings:
                read[first + code] = row
            else:
                changed["decoder"]["logits_dense"]["kernel"][:, first + code] = row
        return changed


def _input_table(params: Mapping[str, Any]) -> Any:
    return params.get("decoder_token_embedder", params["token_embedder"])


@functools.partial(jax.jit, static_argnames=("books", "level"))
def states_of(
    params: Mapping[str, Any],
    documents: Int[Array | np.ndarray, "n l"],
    codes: Int[Array | np.ndarray, "n m"],
    books: Codebooks,
    level: int,
) -> Float[Array, "n d"]:
    """Return the state that is compared with the codebook of a level, after the codes before it.

    Args:
        params: Of the network.
        documents: Tokens, padded with 0.
        codes: Of each document; those from the level on are not read.
        books: The codebooks.
        level: Which.
    """

    def read(model: T5, documents: Array, codes: Array) -> Array:
        return _state(model, books, model.encode(documents), documents, codes, level)[:, 0]

    found: Array = _in_pieces(read)(books, params, documents, codes)
    return found


@functools.partial(jax.jit, static_argnames=("books", "known"))
def written_codes(
    params: Mapping[str, Any],
    documents: Int[Array | np.ndarray, "n l"],
    codes: Int[Array | np.ndarray, "n m"],
    books: Codebooks,
    known: int = 0,
) -> Int32[Array, "n m"]:
    """Return the codes that the network writes for documents, each that of the highest inner product.

    Args:
        params: Of the network.
        documents: Tokens, padded with 0.
        codes: Of each document; the first ``known`` of them are kept.
        books: The codebooks.
        known: Levels that are known.
    """

    def write(model: T5, documents: Array, codes: Array) -> Array:
        encoded = model.encode(documents)
        for level in range(known, len(books.level_sizes)):
            state = _state(model, books, encoded, documents, codes, level)
            chosen = jnp.argmax(model.read(state, books.tokens(level))[:, 0], axis=-1)
            codes = codes.at[:, level].set(chosen)
        return codes

    found: Array = _in_pieces(write)(books, params, documents, codes)
    return found


def _in_pieces(read: Any) -> Any:
    """Return a function that calls the network for some documents at a time, so that memory does not grow with them."""

    def run(books: Codebooks, params: Any, documents: Array, codes: Array) -> Array:
        number, size = len(documents), min(len(documents), _TOGETHER)

        def piled(rows: Array) -> Array:  # [n, ...] --> [pieces, size, ...]
            filled = jnp.pad(rows, ((0, -number % size), (0, 0)))
            return filled.reshape(-1, size, rows.shape[1])

        def of_some(rows: tuple[Array, Array]) -> Array:
            found: Array = T5(books.config).apply({"params": params}, *rows, method=read)
            return found

        found = jax.lax.map(of_some, (piled(documents), piled(codes)))
        return found.reshape(-1, *found.shape[2:])[:number]

    return run


def _state(
    model: T5, books: Codebooks, encoded: Array, documents: Array, codes: Array, level: int
) -> Float[Array, "b 1 d"]:
    """Return the states of documents after the codes before a level."""
    shifted = shifted_tokens(books, codes)[:, : level + 1]
    return model.states(encoded, documents, shifted)[:, level:]


def shifted_tokens(books: Codebooks, codes: Any) -> Any:
    """Return the decoder's input for codes: 0, and the tokens of all but the last; what is not yet known is read as 0.

    Args:
        books: The codebooks.
        codes: Of each document [b, m], -1 where not known; NumPy or JAX.
    """
    first = np.array([books.tokens(level)[0] for level in range(codes.shape[1])], np.int32)
    where = np if isinstance(codes, np.ndarray) else jnp
    tokens = where.where(codes >= 0, first[None] + codes, 0)[:, :-1]
    return where.pad(tokens, ((0, 0), (1, 0)))


class DocidModel(Quantiser):
    """The network of learned docids, kept to give later documents theirs.

    Where other quantisers are given vectors, it is given the tokens of documents, ``settings["length"]`` of them and
    padded with 0, by the run's own vocabulary.
    """

    name = "learned"

    @classmethod
    def of(cls, params: Mapping[str, Any], books: Codebooks, *, length: int) -> "DocidModel":
        """Return the tokeniser of trained parameters that reads so many tokens of a document."""
        flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(params)), sep=".")
        settings = {"model": dataclasses.asdict(books.config), "first_token": books.first_token, "length": length}
        return cls(level_sizes=books.level_sizes, arrays=flat, settings=settings)

    @functools.cached_property
    def books(self) -> Codebooks:
        """Where the codebooks are."""
        fields = dict(self.settings["model"])
        config = T5Config(**{**fields, "activations": tuple(fields["activations"])})
        return Codebooks(config=config, first_token=self.settings["first_token"], level_sizes=self.level_sizes)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the network."""
        nested: dict[str, Any] = flax.traverse_util.unflatten_dict(dict(self.arrays), sep=".")
        return nested

    @property
    def width(self) -> int:
        """Tokens that it reads of a document."""
        return int(self.settings["length"])

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a piece of documents' tokens."""
        nested = flax.traverse_util.unflatten_dict(arrays, sep=".")
        nothing = jnp.full((len(piece), len(self.level_sizes)), -1, jnp.int32)
        return written_codes(nested, piece.astype(jnp.int32), nothing, self.books)

    def grown(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return its parameters for a network of more tokens, which has the given rows for those beyond its codes."""
        last, number = self.books.tokens(len(self.level_sizes) - 1)

        def filled(path: Any, given: Any) -> Float32[np.ndarray, "..."]:
            names = [key.key for key in path]
            whole, own = np.array(given), self.arrays[".".join(names)]
            axis = _TOKEN_AXES.get(names[-2])
            kept = tuple(slice(0, last + number if place == axis else None) for place in range(own.ndim))
            whole[kept] = own[kept]
            return whole

        found: dict[str, Any] = jax.tree_util.tree_map_with_path(filled, dict(params))
        return found
