"""Start a network from a pretrained sentence encoder and the vectors that it gives the documents."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.initialize import copied, shrink_residual_branches
from genret_jax.models.start import EncodedFacts, Params
from genret_jax.validation import at_least, check_fields, more_than

_RIDGE = 1e-3  # of the least squares, relative to the frequency of a token
# Without words no BM25 score is the unit of cosines. They count for 20 BM25 points at the usual lexical scale, because
# they differ by tenths where the logits of documents have to differ by units.
_WITHOUT_WORDS = 10.0


@dataclass(frozen=True, kw_only=True)
class EncoderStart:
    """Start from a pretrained encoder: the untrained network ranks documents as the encoder and BM25 do.

    The decoder begins as an additive quantised retriever. Its state is the query's vector, its output rows are
    codewords, and its residual branches are small. The sum of the logits along a docid is then the inner product of
    the query's vector with the sum of the docid's codewords. A network with a plan begins with a decoder that says
    nothing, because the plan knows the documents' vectors better than their codes do.

    Args:
        code_scale: Factor of the inner products of queries and codewords.
        dense_scale: Factor of the inner products of queries and documents in a dense plan; beside words they are in
            units of the highest lexical score. None takes the weight that was chosen on training queries, or 1 without
            any; without words, 10.
        lexical_scale: Factor of the BM25 scores in a lexical plan.
        stop_word_weight: Factor of the weights of English stop words in a lexical plan without training queries, whose
            frequencies tell more.
        residual_scale: Factor of the output of the decoder's residual branches and of its token vectors.
    """

    code_scale: Annotated[float, at_least(0)] = 20.0
    dense_scale: Annotated[float, at_least(0)] | None = None
    lexical_scale: Annotated[float, at_least(0)] = 0.5
    stop_word_weight: Annotated[float, more_than(0)] = 0.3
    residual_scale: Annotated[float, at_least(0)] = 0.05

    source = "a pretrained encoder"
    covers_new_documents = True

    def __post_init__(self) -> None:
        check_fields(self)

    def initial_params(self, random_params: Params, config: T5Config, facts: EncodedFacts) -> Params:
        """Return the parameters; see :class:`~genret_jax.models.start.Start`."""
        changed: dict[str, Any] = copied(random_params)
        changed["encoder"] = copied(facts.encoder_params())
        if facts.docids is None:  # the network will learn them, and makes codewords of its states
            self._shrink_decoder(changed, config)
            return changed
        vectors = np.asarray(facts.document_vectors(), np.float32)
        document, tokens = facts.docids.document, facts.docids.tokens
        shown = facts.shown()[document]
        words = codewords(tokens[shown], vectors[document[shown]], config.output_vocab_size)
        if config.num_decoder_layers:
            scale = 0.0 if config.plan is not None else self.code_scale * config.d_model**-0.5
            self._start_decoder(changed, config, scale * words, scale * facts.docids.node_means(vectors))
        if config.plan is not None:
            dense_scale = facts.cosine_weight() if config.plan.terms else _WITHOUT_WORDS
            dense_scale = dense_scale if self.dense_scale is None else self.dense_scale
            self._start_plan(changed["plan"], words, dense_scale, facts.stop_terms())
        return changed

    def _start_decoder(
        self, params: dict[str, Any], config: T5Config, rows: Float[np.ndarray, "v d"], nodes: Float[np.ndarray, "s d"]
    ) -> None:
        self._shrink_decoder(params, config)
        if config.head == "prefix":
            params["decoder"]["prefix_head"]["output_nodes"][: len(nodes)] = nodes
        else:
            params["decoder"]["logits_dense"]["kernel"][:] = rows.T

    def _shrink_decoder(self, params: dict[str, Any], config: T5Config) -> None:
        """Make what the decoder adds to the query's vector small."""
        shrink_residual_branches(params["decoder"], config.num_decoder_layers, self.residual_scale)
        if config.head == "prefix":
            params["decoder"]["prefix_head"]["input_nodes"] *= self.residual_scale
        else:
            params["decoder_token_embedder"]["embedding"] *= self.residual_scale

    def _start_plan(
        self,
        plan: dict[str, Any],
        rows: Float[np.ndarray, "v d"],
        dense_scale: float,
        stop_terms: Int[np.ndarray, " s"],
    ) -> None:
        scales = {"code_scale": self.code_scale, "dense_scale": dense_scale, "lexical_scale": self.lexical_scale}
        for name in scales.keys() & plan.keys():
            plan[name] = np.array(scales[name], np.float32)
        if "codes" in plan:
            plan["codes"][:] = rows.T
        if "term_weights" in plan:
            plan["term_weights"][stop_terms] = np.log(self.stop_word_weight)


def codewords(
    tokens: Int[np.ndarray, "r m"], vectors: Float[np.ndarray, "r d"], vocab_size: int, *, iterations: int = 50
) -> Float[np.ndarray, "v d"]:
    """Return a vector for each docid token, so that the vectors of a docid's tokens add up to that of its document.

    This is the least-squares fit of additive quantisation (Babenko and Lempitsky 2014, "Additive Quantization for
    Extreme Vector Compression", section 3.2), by conjugate gradients. It fits the codes of any strategy; the codebooks
    of residual and of product quantisation are a solution that it improves on.

    Args:
        tokens: Docids, padded with 0.
        vectors: The vector of each row's document.
        vocab_size: Number of tokens.
        iterations: Steps of the method.
    """
    row, column = np.nonzero(tokens)
    ones = np.ones(len(row), np.float32)
    design = scipy.sparse.csr_matrix((ones, (row, tokens[row, column])), shape=(len(tokens), vocab_size))
    # Scaled by the root of their frequencies, frequent and rare tokens converge alike.
    scale = 1 / np.sqrt(np.asarray(design.sum(axis=0)).ravel() + 1)
    design = design @ scipy.sparse.diags_array(scale.astype(np.float32))
    found = np.zeros((vocab_size, vectors.shape[1]), np.float32)
    left = np.asarray(design.T @ vectors, np.float32)
    direction, size = left, np.sum(left**2, axis=0)
    for _ in range(iterations):
        mapped = design.T @ (design @ direction) + _RIDGE * direction
        step = size / np.maximum(np.sum(direction * mapped, axis=0), 1e-30)
        found, left = found + step * direction, left - step * mapped
        before, size = size, np.sum(left**2, axis=0)
        direction = left + size / np.maximum(before, 1e-30) * direction
    return found * scale[:, None].astype(np.float32)
