"""The sampler: training examples from an example store, each a pure function of (seed, step, row).

It keeps no state between steps. So training resumes exactly, several processes can each compute a part of a batch, and
rates can change without new preparation. The seqio tasks call the same sampler.

Document representations and indexing objectives are those of DSI (Tay et al. 2022, arXiv 2202.06991, section 3.1).
"""

import dataclasses

import numpy as np

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.objectives import text_examples
from genret_jax.data.examples.pseudo_queries import choose
from genret_jax.data.examples.sampler_config import SamplerConfig
from genret_jax.data.examples.store import NO_WORD, ExampleStore, Rows, Targets, Tokens, Words
from genret_jax.data.text.vocabulary import PAD
from genret_jax.errors import InputError

__all__ = ["INDEXING", "KINDS", "PSEUDO_QUERY", "RETRIEVAL", "Drawn", "Sampler", "SamplerConfig"]

INDEXING, PSEUDO_QUERY, RETRIEVAL = range(3)
KINDS = ("indexing", "pseudo_query", "retrieval")

# Streams of the counter-based random numbers; those of other files begin at 100, 200 and 300.
_DOCUMENT, _KIND, _QUERY, _PAIR, _GENERATED, _WHICH, _CHUNK, _DROP, _RESEGMENT, _ALTERNATIVE, _DOCID = range(11)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """The examples of b rows as word numbers, before word drop and tokens.

    Attributes:
        kind: ``INDEXING``, ``PSEUDO_QUERY`` or ``RETRIEVAL``; a retrieval example without a query has become a
            pseudo-query.
        document: Index of the document.
        query: Index of the query, or -1.
        docid_row: Row of the store's docid arrays.
        words: Word numbers, padded with -1.
    """

    kind: Rows
    document: Rows
    query: Rows
    docid_row: Rows
    words: Words


class Sampler:
    """Draws the batches of training examples from an example store.

    Args:
        store: The store.
        config: Rates, representation, objective and noise of the examples.
        seed: Seed of all random choices.
        batch_size: Rows of a step.

    Attributes:
        documents: Indices of the documents that are shown.

    Raises:
        InputError: If a split is unknown, or the objective needs text tokens or sentinels that the store lacks.
    """

    def __init__(self, store: ExampleStore, config: SamplerConfig, *, seed: int, batch_size: int):
        self.store, self.config, self.seed, self.batch_size = store, config, seed, batch_size
        self._check_objective()
        self.documents = store.shown_documents(config.unseen_split)
        query, document, _ = store.pairs(config.split)
        has_words = (store.spans("query", query)[1] > 0) & (store.spans("document", document)[1] > 0)
        usable = has_words & np.isin(document, self.documents)
        self._pair_query, self._pair_document = query[usable], document[usable]  # ordered by document
        self._first_pair = np.searchsorted(self._pair_document, np.arange(store.num_documents + 1))
        self._by_query = np.argsort(self._pair_query, kind="stable")
        _, self._query_begins = np.unique(self._pair_query[self._by_query], return_index=True)
        self._query_ends = np.append(self._query_begins[1:], len(self._by_query))

    def _check_objective(self) -> None:
        config, store = self.config, self.store
        if not config.decoder_writes_text:
            return
        if not store.shares_vocabulary:
            raise InputError(
                f"objective {config.objective!r} with docid tokens from {store.manifest['codec']['first_token']} on",
                file=store.folder,
                expected=f"text and docids in one vocabulary, docid tokens from {store.vocabulary_size} on",
                fix="make the codec with first_token = the vocabulary's size, or use objective 'inputs_to_targets'",
            )
        needed = {"bidirectional": 2, "span_corruption": 1 + config.span_corruption.most_spans(config.input_length)}
        if store.manifest["extra_ids"] < needed.get(config.objective, 0):
            raise InputError(
                f"objective {config.objective!r} with {store.manifest['extra_ids']} sentinels in the vocabulary",
                file=store.folder,
                expected=f"at least {needed[config.objective]}",
                fix="build the examples with --extra-ids 100",
            )

    @property
    def decoder_length(self) -> int:
        """Columns of the decoder arrays."""
        if not self.config.decoder_writes_text:
            return self.store.docid_length
        return max(self.store.docid_length, self.config.target_length or self.config.input_length)

    @property
    def _most_words(self) -> int:
        """Words that are read for a row: more than fill the input, because some are dropped."""
        return 2 * self.config.input_length

    def batch(
        self,
        step: int,
        rows: Rows | slice | None = None,
        documents: Rows | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the examples of a step, or some rows of it.

        Args:
            step: Step number, from 0.
            rows: Rows of the step's batch; by default all.
            documents: Documents of the rows; by default drawn.

        Returns:
            int32 ``encoder_input_tokens`` [b, L] padded with 0, ``decoder_target_tokens``, ``decoder_input_tokens``
            (shifted right, 0 first) and ``decoder_prefix_nodes`` [b, m] (0 where the target is text), ``document``
            [b] (index), ``query`` [b] (index, -1 for none), ``docid_row`` [b] (row of the store's docids), and float32
            ``decoder_loss_weights`` [b, m].
        """
        numbers = np.arange(self.batch_size)
        random, drawn = self.draw(step, numbers if rows is None else numbers[rows], documents)
        inputs, targets, nodes = self._tokens(drawn, random)
        decoder_inputs = np.zeros_like(targets)
        decoder_inputs[:, 1:] = targets[:, :-1]
        return {
            "encoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_input_tokens": decoder_inputs,
            "decoder_loss_weights": (targets != PAD).astype(np.float32),
            "decoder_prefix_nodes": nodes,
            "document": drawn.document.astype(np.int32),
            "query": drawn.query.astype(np.int32),
            "docid_row": drawn.docid_row.astype(np.int32),
        }

    def draw(self, step: int, rows: Rows, documents: Rows | None = None) -> tuple[RowRandom, Drawn]:
        """Draw the examples of the given rows of a step; return their random numbers too."""
        random = RowRandom(self.seed, step, np.asarray(rows, np.int64))
        kind = choose(self.config.rates_at(step), random.uniform(_KIND))
        document, query = self._documents_and_queries(kind, random, documents)
        kind = np.where((kind == RETRIEVAL) & (query < 0), PSEUDO_QUERY, kind)
        first_docid, docids = self.store.spans("docid", document)
        docid_row = first_docid + random.below(_DOCID, docids)
        words = np.full((len(kind), self._most_words), NO_WORD, np.int32)
        indexing, pseudo, retrieval = (np.flatnonzero(kind == one) for one in (INDEXING, PSEUDO_QUERY, RETRIEVAL))
        words[indexing] = self._document_words(document[indexing], random.select(indexing))
        words[pseudo] = self._pseudo_query_words(document[pseudo], random.select(pseudo))
        words[retrieval] = self._words_of("query", query[retrieval])
        return random, Drawn(kind=kind, document=document, query=query, docid_row=docid_row, words=words)

    def _documents_and_queries(self, kind: Rows, random: RowRandom, given: Rows | None) -> tuple[Rows, Rows]:
        drawn = self.documents[random.below(_DOCUMENT, np.full(len(kind), len(self.documents)))]
        document = drawn if given is None else given
        retrieval = kind == RETRIEVAL
        if not len(self._pair_query):
            return document, np.full(len(kind), -1)
        if self.config.draw == "document" or given is not None:
            begins, ends = self._first_pair[document], self._first_pair[document + 1]
            pair = np.minimum(begins + random.below(_PAIR, ends - begins), len(self._pair_query) - 1)
            return document, np.where(retrieval & (ends > begins), self._pair_query[pair], -1)
        number = random.below(_QUERY, np.full(len(kind), len(self._query_begins)))
        begins, ends = self._query_begins[number], self._query_ends[number]
        pair = self._by_query[begins + random.below(_PAIR, ends - begins)]
        document = np.where(retrieval, self._pair_document[pair], document)
        return document, np.where(retrieval, self._pair_query[pair], -1)

    def _words_of(self, name: str, chosen: Rows) -> Words:
        """Return the words of queries or documents from the first on."""
        return self.store.words(f"{name}_words", *self.store.spans(name, chosen), self._most_words)

    def _document_words(self, document: Rows, random: RowRandom) -> Words:
        """Return the words of documents in the configured representation."""
        config, store = self.config, self.store
        if config.representation == "set":
            words = self._words_of("term", document)
            of_stop_words = np.flatnonzero(store.spans("term", document)[1] == 0)  # these documents show them
            words[of_stop_words] = self._words_of("document", document[of_stop_words])
            return words
        if config.representation == "direct":
            return self._words_of("document", document)
        # The chunk has as many words as fill the input on average in this document, and ends within it.
        starts, lengths = store.spans("document", document)
        tokens = store.array("document_tokens")[document].astype(np.int64)
        shown = np.minimum(lengths, np.maximum(1, config.input_length * lengths // tokens))
        skipped = random.below(_CHUNK, lengths - shown + 1)
        return store.words("document_words", starts + skipped, lengths - skipped, self._most_words)

    def _pseudo_query_words(self, document: Rows, random: RowRandom) -> Words:
        """Return the words of pseudo-queries, drawn or generated."""
        words, _ = self.config.pseudo_queries.draw(self.store, document, random, self._most_words)
        if self.config.draws_generated_queries:
            begins, counts = self.store.spans("generated", document)
            chosen = begins + random.below(_WHICH, counts)
            rows = np.flatnonzero((counts > 0) & (random.uniform(_GENERATED) < self.config.generated_query_rate))
            spans = self.store.spans("generated_word", chosen[rows])
            words[rows] = self.store.words("generated_words", *spans, self._most_words)
        return words

    def _tokens(self, drawn: Drawn, random: RowRandom) -> tuple[Tokens, Targets, Targets]:
        """Return encoder inputs, decoder targets, and the docid tree's node before each target token."""
        config, store = self.config, self.store
        if config.writes_queries:
            return self._to_queries(drawn, random)
        words = self._dropped(drawn, random)
        alternatives = self._alternatives(words, random)
        inputs = self._inputs(words, alternatives)
        targets = np.zeros((len(words), self.decoder_length), np.int32)
        nodes = np.zeros_like(targets)
        targets[:, : store.docid_length] = store.array("docid_tokens")[drawn.docid_row]
        nodes[:, : store.docid_length] = store.array("docid_prefix_nodes")[drawn.docid_row]
        indexing = np.flatnonzero(drawn.kind == INDEXING)
        if config.decoder_writes_text and len(indexing):
            inputs[indexing], targets[indexing], writes_text = text_examples(
                store,
                config,
                random.select(indexing),
                words=words[indexing],
                alternatives=alternatives[indexing],
                whole=drawn.words[indexing],
                docids=targets[indexing],
            )
            nodes[indexing[writes_text]] = 0  # text has no nodes in the docid tree
        return inputs, targets, nodes

    def _inputs(self, words: Words, alternatives: Words) -> Tokens:
        config = self.config
        tokens = self.store.tokens(words, config.input_length, alternatives=alternatives, append_eos=config.append_eos)
        return np.concatenate([tokens, self.store.terms(words, config.terms)], axis=1) if config.terms else tokens

    def _to_queries(self, drawn: Drawn, random: RowRandom) -> tuple[Tokens, Targets, Targets]:
        """Return documents as inputs, and their queries as targets: all words, best segmentations, EOS."""
        shown = self._document_words(drawn.document, random)
        words = self._dropped(dataclasses.replace(drawn, words=shown, kind=np.full_like(drawn.kind, INDEXING)), random)
        inputs = self._inputs(words, self._alternatives(words, random))
        targets = self.store.tokens(drawn.words, self.decoder_length, append_eos=True)
        return inputs, targets, np.zeros_like(targets)

    def _dropped(self, drawn: Drawn, random: RowRandom) -> Words:
        """Drop words at random, but never all words of a row."""
        rate = self.config.word_drop + np.where(drawn.kind == RETRIEVAL, self.config.query_word_drop, 0.0)
        present = drawn.words != NO_WORD
        chance = np.where(present, random.uniforms(_DROP, drawn.words.shape[1]), -1.0)
        kept = present & ((chance >= rate[:, None]) | (chance == chance.max(axis=1, keepdims=True)))
        return np.where(kept, drawn.words, np.int32(NO_WORD))

    def _alternatives(self, words: Words, random: RowRandom) -> Words:
        """Choose the best segmentation of most words, any one of some (Kudo 2018, arXiv 1804.10959, section 3.2)."""
        width = words.shape[1]
        counts = self.store.segmentation_counts(words)
        any_of_them = (random.uniforms(_ALTERNATIVE, width) * counts).astype(np.int64)
        return np.where(random.uniforms(_RESEGMENT, width) < self.config.resegmentation, any_of_them, 0)
