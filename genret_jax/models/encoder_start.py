"""Start a network from a pretrained sentence encoder and the vectors that it gives the documents."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from genret_jax.models.config import T5Config
from genret_jax.models.initialize import copied
from genret_jax.models.plan_start import PlanScales, shown_codewords, shrink_decoder, start_decoder
from genret_jax.models.start import EncodedFacts, Params
from genret_jax.validation import at_least, check_fields


@dataclass(frozen=True, kw_only=True)
class EncoderStart(PlanScales):
    """Start from a pretrained encoder: the untrained network ranks documents as the encoder and BM25 do.

    The decoder begins as an additive quantised retriever. Its state is the query's vector, its output rows are
    codewords, and its residual branches are small. The sum of the logits along a docid is then the inner product of
    the query's vector with the sum of the docid's codewords. A network with a plan begins with a decoder that says
    nothing, because the plan knows the documents' vectors better than their codes do.

    Args:
        code_scale: As in :class:`~genret_jax.models.plan_start.PlanScales`, like the next three; also that of the
            inner products in a decoder without a plan.
        dense_scale: Factor of the inner products of queries and documents.
        lexical_scale: Factor of the BM25 scores.
        stop_word_weight: Factor of the weights of English stop words.
        residual_scale: Factor of the output of the decoder's residual branches and of its token vectors.
    """

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
            shrink_decoder(changed, config, self.residual_scale)
            return changed
        vectors = np.asarray(facts.document_vectors(), np.float32)
        if config.num_decoder_layers:
            scale = 0.0 if config.plan is not None else self.code_scale * config.d_model**-0.5
            words = shown_codewords(facts, vectors, config.output_vocab_size)
            start_decoder(changed, config, self.residual_scale, scale * words, scale * facts.docids.node_means(vectors))
        if config.plan is not None:
            self.start_plan(changed, config, facts, vectors)
        return changed
