"""The start of a plan: its scores are those of tuned BM25 and of inner products, and a decoder adds nothing to them."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.start import PlanFacts
from genret_jax.validation import at_least, more_than

_RIDGE = 1e-3  # of the least squares, relative to the frequency of a token
# Without words no BM25 score is the unit of cosines. They count for 20 BM25 points at the usual lexical scale, because
# they differ by tenths where the logits of documents have to differ by units.
_WITHOUT_WORDS = 10.0


@dataclass(frozen=True, kw_only=True)
class PlanScales:
    """Scales with which a plan begins.

    Args:
        code_scale: Factor of the inner products of queries and codewords.
        dense_scale: Factor of the inner products of queries and documents in a dense plan; beside words they are in
            units of the highest lexical score. None takes the weight that was chosen on training queries, or 1 without
            any; without words, 10.
        lexical_scale: Factor of the BM25 scores in a lexical plan.
        stop_word_weight: Factor of the weights of English stop words in a lexical plan without training queries, whose
            frequencies tell more.
    """

    code_scale: Annotated[float, at_least(0)] = 20.0
    dense_scale: Annotated[float, at_least(0)] | None = None
    lexical_scale: Annotated[float, at_least(0)] = 0.5
    stop_word_weight: Annotated[float, more_than(0)] = 0.3

    starts_plans = True

    def start_plan(
        self, params: dict[str, Any], config: T5Config, facts: PlanFacts, vectors: Float[np.ndarray, "n d"] | None
    ) -> None:
        """Set the parameters of the plan, in place.

        Args:
            params: Parameters of the network.
            config: The network, with a plan.
            facts: Facts about the corpus.
            vectors: Vectors of the documents; None for a plan of words.
        """
        plan, kinds = params["plan"], config.plan
        assert kinds is not None
        dense_scale = self.dense_scale
        if dense_scale is None:
            dense_scale = facts.cosine_weight() if kinds.terms else _WITHOUT_WORDS
        scales = {"code_scale": self.code_scale, "dense_scale": dense_scale, "lexical_scale": self.lexical_scale}
        for name in scales.keys() & plan.keys():
            plan[name] = np.array(scales[name], np.float32)
        if kinds.codes:
            assert vectors is not None
            plan["codes"][:] = shown_codewords(facts, vectors, len(plan["codes"].T)).T
        if kinds.terms:
            plan["term_weights"][facts.stop_terms()] = np.log(self.stop_word_weight)


def shrink_residual_branches(stack: dict[str, Any], depth: int, scale: float) -> None:
    """Multiply the output of all residual branches of a stack of layers, in place."""
    for number in range(depth):
        layer = stack[f"layers_{number}"]
        layer["mlp"]["wo"]["kernel"] *= scale
        for name in ("attention", "self_attention", "encoder_decoder_attention"):
            if name in layer:
                layer[name]["out"]["kernel"] *= scale


def start_decoder(
    params: dict[str, Any],
    config: T5Config,
    residual_scale: float,
    rows: Float[np.ndarray, "v d"],
    nodes: Float[np.ndarray, "s d"],
) -> None:
    """Set a decoder that compares the query's vector with its output rows, in place.

    Args:
        params: Parameters of the network.
        config: The network, with layers in its decoder.
        residual_scale: Factor of the output of the decoder's residual branches and of its token vectors.
        rows: Output rows of tokens, for the vocabulary head.
        nodes: Output rows of docid nodes, for the prefix head.
    """
    shrink_decoder(params, config, residual_scale)
    if config.head == "prefix":
        params["decoder"]["prefix_head"]["output_nodes"][: len(nodes)] = nodes
    else:
        params["decoder"]["logits_dense"]["kernel"][:] = rows.T


def shrink_decoder(params: dict[str, Any], config: T5Config, scale: float) -> None:
    """Make small what a decoder adds to the query's vector, in place."""
    shrink_residual_branches(params["decoder"], config.num_decoder_layers, scale)
    if config.head == "prefix":
        params["decoder"]["prefix_head"]["input_nodes"] *= scale
    else:
        params["decoder_token_embedder"]["embedding"] *= scale


def shown_codewords(facts: PlanFacts, vectors: Float[np.ndarray, "n d"], vocab_size: int) -> Float[np.ndarray, "v d"]:
    """Return codewords for the docids of the documents that training shows (:func:`codewords`)."""
    shown = facts.shown()[facts.docids.document]
    return codewords(facts.docids.tokens[shown], vectors[facts.docids.document[shown]], vocab_size)


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
