"""Configuration of the sampler: rates, representation, objective and noise of the training examples."""

import dataclasses
from typing import Annotated, Any, Literal

from genret_jax.data.examples.pseudo_queries import PseudoQueries
from genret_jax.data.examples.span_corruption import SpanCorruption
from genret_jax.validation import at_least, check_fields, from_to, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Rates, representation, objective and noise of the training examples.

    The defaults suit training from random weights on a small corpus.

    Attributes:
        indexing_rate: Relative share of examples document → docid.
        pseudo_query_rate: Relative share of examples pseudo-query → docid.
        retrieval_rate: Relative share of examples query → docid. A document (``draw="document"``) or a split
            without queries gives a pseudo-query instead.
        indexing_first: Number of first steps that show indexing examples only; later steps then show the other kinds
            only, at their rates (DSI's indexing before fine-tuning, section 3.3). With 0 every step shows all kinds.
        draw: ``"document"`` draws a document first, all equally likely, then an example of it, so that documents with
            many queries are not preferred. ``"query"`` draws a query first for retrieval examples, then one of its
            documents.
        split: The qrels split whose queries are shown.
        unseen_split: A qrels split whose documents are not shown, as if they came later; None shows all.
        representation: Input of indexing examples: ``"direct"`` the first tokens, ``"set"`` distinct words without stop
            words, ``"inverted"`` a random chunk.
        objective: Direction of indexing examples: ``"inputs_to_targets"`` document → docid, ``"targets_to_inputs"``
            docid → document, ``"bidirectional"`` either one, marked by a sentinel in front, ``"span_corruption"`` the
            masked spans of docid and document together. ``"documents_to_queries"`` trains a query generator
            (doc2query: Nogueira et al. 2019, arXiv 1904.08375): the input is a document, the target a query or
            pseudo-query of it; ``indexing_rate`` must then be 0.
        input_length: Encoder tokens.
        terms: Terms of an input that a lexical plan reads; they follow its tokens. An experiment fills them in from
            its ``PlanConfig``.
        target_length: Decoder tokens where the decoder writes text; by default ``input_length``.
        append_eos: End encoder inputs with EOS, as T5 does.
        word_drop: Probability of dropping a word; one word of a row always stays.
        query_word_drop: Added to ``word_drop`` for queries of the split.
        resegmentation: Share of the words whose segmentation is drawn from all, instead of the best.
        generated_query_rate: Share of the pseudo-queries taken from ``queries_generated.jsonl``, for documents that
            have some; not used with ``"documents_to_queries"``.
        pseudo_queries: Kinds of the other pseudo-queries.
        span_corruption: Noise of that objective.
    """

    indexing_rate: Annotated[float, at_least(0)] = 15.0
    pseudo_query_rate: Annotated[float, at_least(0)] = 60.0
    retrieval_rate: Annotated[float, at_least(0)] = 25.0
    indexing_first: Annotated[int, at_least(0)] = 0
    draw: Literal["document", "query"] = "document"
    split: str = "train"
    unseen_split: str | None = None
    representation: Literal["direct", "set", "inverted"] = "direct"
    objective: Literal[
        "inputs_to_targets", "targets_to_inputs", "bidirectional", "span_corruption", "documents_to_queries"
    ] = "inputs_to_targets"
    input_length: Annotated[int, at_least(2)] = 24
    terms: Annotated[int, at_least(0)] = 0
    target_length: Annotated[int, at_least(2)] | None = None
    append_eos: bool = False
    word_drop: Annotated[float, from_to(0, 1)] = 0.15
    query_word_drop: Annotated[float, from_to(0, 1)] = 0.3
    resegmentation: Annotated[float, from_to(0, 1)] = 0.1
    generated_query_rate: Annotated[float, from_to(0, 1)] = 0.5
    pseudo_queries: PseudoQueries = dataclasses.field(default_factory=PseudoQueries)
    span_corruption: SpanCorruption = dataclasses.field(default_factory=SpanCorruption)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "indexing_rate", sum(self.rates) > 0, "some rate above 0")
        apart = self.indexing_rate > 0 and self.pseudo_query_rate + self.retrieval_rate > 0
        require(self, "indexing_first", apart or not self.indexing_first, "0 unless indexing and others have a rate")
        indexed = self.writes_queries and self.indexing_rate > 0
        require(self, "indexing_rate", not indexed, "0 with objective 'documents_to_queries'")
        with_terms = not self.decoder_writes_text or not self.terms
        require(self, "terms", with_terms, "0 with an objective that writes text")
        require(self, "query_word_drop", self.word_drop + self.query_word_drop < 1, "below 1 with word_drop added")

    @property
    def input_form(self) -> dict[str, Any]:
        """How texts become inputs, as methods of the example store take it."""
        return {"length": self.input_length, "append_eos": self.append_eos, "terms": self.terms}

    def rates_at(self, step: int) -> tuple[float, float, float]:
        """Return the rates of a step."""
        if not self.indexing_first:
            return self.rates
        return (1.0, 0.0, 0.0) if step < self.indexing_first else (0.0, *self.rates[1:])

    @property
    def rates(self) -> tuple[float, float, float]:
        """The rates of indexing, pseudo-query and retrieval examples."""
        return self.indexing_rate, self.pseudo_query_rate, self.retrieval_rate

    @property
    def draws_generated_queries(self) -> bool:
        """Whether documents with generated queries show them."""
        return self.generated_query_rate > 0 and not self.writes_queries

    @property
    def decoder_writes_text(self) -> bool:
        """Whether some examples ask the decoder for text."""
        return self.writes_queries or (self.objective != "inputs_to_targets" and self.indexing_rate > 0)

    @property
    def writes_queries(self) -> bool:
        """Whether the decoder writes queries, and never docids."""
        return self.objective == "documents_to_queries"
