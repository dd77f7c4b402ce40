"""Documents: text in, docids of documents out (DSI, NCI, GenRet)."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from genret_jax.baselines.bm25 import BM25_NAMES, bm25_answers
from genret_jax.config.experiment import Experiment
from genret_jax.data.corpus import Corpus, read_beir, write_beir
from genret_jax.data.examples.building import build_store
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.examples.sampler_config import SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.splits import evenly_spread, hold_out, without_generated
from genret_jax.data.text.encoder_vocabulary import EncoderVocabulary
from genret_jax.data.text.latent import token_counts
from genret_jax.data.text.vocabulary import Vocabulary, make_vocabulary
from genret_jax.data.vectors import LsaVectors
from genret_jax.docid_learning.learner import DocidLearner
from genret_jax.docid_learning.model import Codebooks, DocidModel
from genret_jax.docids import AtomicDocids, DocidCodec, DocidTable, LearnedDocids
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, evaluation_split, memorisation_split
from genret_jax.models.plan import PlanTables
from genret_jax.problems.encoder_parts import EncoderParts
from genret_jax.problems.parts import QUANTISER
from genret_jax.problems.problem import Problem, Setup
from genret_jax.problems.requests import Measured, Requests
from genret_jax.problems.sizing import document_codec, document_network, with_encoder
from genret_jax.storage import fingerprint
from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_steps
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.encoded_pool import EncodedPool
from genret_jax.training.initial import DocumentFacts
from genret_jax.training.planned_docids import PlannedDocids

LEARNING = "learning"  # only there while docids are learned
_SHORTEST = 16  # tokens; shorter inputs would cost as much
_MEMORISED = 2048  # documents asked for themselves; enough for the share within a point


@dataclasses.dataclass(frozen=True, kw_only=True)
class Added:
    """Documents that a run folder does not hold.

    Attributes:
        texts: Their texts.
        vectors: [m, d]; what the run's encoder makes of them; None without a pretrained encoder.
    """

    texts: Sequence[str]
    vectors: Any

    def after(self, before: "Added | None") -> "Added":
        """Return these documents behind others."""
        if before is None:
            return self
        vectors = None if self.vectors is None else np.concatenate([before.vectors, self.vectors])
        return Added(texts=[*before.texts, *self.texts], vectors=vectors)


class Documents(Problem):
    """A corpus of documents, its queries and judgements."""

    experiment_class = Experiment
    kind = "documents"
    request = (str, "query", "search")
    baseline_names = BM25_NAMES
    measures = frozenset({"bm25", "untrained", "dual_encoder"})

    experiment: Experiment
    added: Added | None = None  # documents that are not in the folder

    # --- Preparing ---

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Corpus:
        """Read a BEIR folder."""
        return read_beir(folder)

    @staticmethod
    def is_costly(folder: Path) -> bool:
        """Return whether docids were learned or fitted in a run folder, or some of their levels or steps."""
        learning = folder / LEARNING
        begun = any(checkpoint_steps(phase / CHECKPOINTS_FOLDER) for phase in learning.glob("*"))
        return begun or any(learning.glob("learned_*")) or (folder / QUANTISER).is_dir()

    def given(self) -> tuple[Corpus, dict[str, str]]:
        """Read the corpus; queries and judgements decide too what a run is."""
        corpus = read_beir(self.experiment.corpus)
        if not self.experiment.sampler.draws_generated_queries:  # such a run goes on when some have been written
            corpus = dataclasses.replace(corpus, generated_queries={})
        prints = {"corpus": fingerprint(corpus.fingerprint, corpus.queries, corpus.qrels)}
        if corpus.generated_queries:
            prints["queries_generated.jsonl"] = fingerprint(corpus.generated_queries)
        return corpus, prints

    def prepare(self, data: Corpus, log: Callable[[str], None], like: Path | None) -> Setup:
        """Write corpus, docids and example store."""
        experiment, corpus = self.experiment, self._with_validation(data, log)
        self._make("corpus", lambda path: write_beir(corpus, path), like)
        self.parts.prepare_encoder(corpus, like)
        splits = "".join(f", {split} {len(qrels):,} queries" for split, qrels in corpus.qrels.items())
        log(f"corpus      {len(corpus):,} documents{splits}")
        table = self._made_docids(corpus, log, like)
        self._make("examples", lambda path: self._build_store(path, corpus, table), like)
        shutil.rmtree(self.folder / LEARNING, ignore_errors=True)
        store = ExampleStore.open(self.folder / "examples")
        vocabulary = store.vocabulary
        log(f"examples    {store.manifest['words']:,} words in {vocabulary.size:,} tokens ({vocabulary.kind})")
        codec = document_codec(experiment, table, vocabulary.size, vocabulary.encode)
        self.parts.prepare_plan(store, corpus, log, like)
        # The sampler refuses splits that do not exist.
        Sampler(store, experiment.sampler, seed=experiment.seed, batch_size=experiment.trainer.batch_size)
        nodes = codec.encode(table).tree.num_nodes
        model = document_network(experiment, vocabulary.size, codec, nodes, store.num_terms)
        if experiment.encoder is not None:
            model = with_encoder(model, self.parts.pretrained, codec, store.num_terms, experiment.sampler.input_length)
        return Setup(
            name=corpus.name,
            codec=codec,
            model=model,
            fingerprints={
                "corpus": corpus.fingerprint,
                "docids": table.fingerprint,
                "vocabulary": vocabulary.fingerprint,
            },
        )

    def _with_validation(self, corpus: Corpus, log: Callable[[str], None]) -> Corpus:
        """Hold some training queries out for validation, where the corpus has no such split."""
        share = self.experiment.hold_out
        if not share or "validation" in corpus.qrels or "train" not in corpus.qrels:
            return corpus
        corpus, left_out = without_generated(hold_out(corpus, share, split="validation"), split="validation")
        if left_out:
            log(f"corpus      {left_out:,} generated queries left out, because they are held out for validation")
        return corpus

    def _made_docids(self, corpus: Corpus, log: Callable[[str], None], like: Path | None) -> DocidTable:
        if isinstance(self.experiment.docids, LearnedDocids):
            self._learn_docids(corpus, log, like)
        unseen, split = np.zeros(len(corpus), bool), self.experiment.sampler.unseen_split
        if split is not None:  # the sampler refuses a split that does not exist
            row = corpus.document_index
            unseen[[row[document] for judged in corpus.qrels.get(split, {}).values() for document in judged]] = True
        return self._make_docids(corpus, lambda: self._vectors(corpus), log, like, unseen=unseen)

    def _vectors(self, corpus: Corpus) -> np.ndarray:
        """Return a vector of each document, from the experiment's source, the encoder, or the words."""
        if self.experiment.vectors is None and self.experiment.encoder is not None:
            return self.parts.document_vectors
        return np.asarray((self.experiment.vectors or LsaVectors()).vectors(corpus))

    def _learn_docids(self, corpus: Corpus, log: Callable[[str], None], like: Path | None) -> None:
        """Learn docids, and keep the network that writes them."""
        strategy, learning = self.experiment.docids, self.folder / LEARNING
        assert isinstance(strategy, LearnedDocids)
        if jax.process_count() > 1 and not (self.folder / "docids").is_dir():
            raise InputError(
                "docids are learned by one process, and there are several",
                file=self.folder,
                fix="prepare the run in one process (--prepare-only), then train it in several",
            )

        @functools.cache
        def learned() -> tuple[DocidModel, DocidTable]:
            # A store needs a docid for every document; these are not read.
            table = AtomicDocids().assign(corpus.doc_ids, None, 0, corpus.fingerprint)
            self._make(f"{LEARNING}/examples", lambda path: self._build_store(path, corpus, table), None)
            store = ExampleStore.open(learning / "examples")
            encoded = self.experiment.encoder is not None
            first_token = 2 if encoded else store.vocabulary_size
            codec = DocidCodec(first_token=first_token, level_sizes=(strategy.codebook,) * strategy.levels)
            writing = dataclasses.replace(self.experiment, model=self.experiment.model.writing_tokens())
            model = document_network(writing, store.vocabulary_size, codec, 0)
            if encoded:
                longest = max(strategy.document_length, self.experiment.sampler.input_length)
                model = with_encoder(model, self.parts.pretrained, codec, store.num_terms, longest)
            books = Codebooks(config=model, first_token=first_token, level_sizes=codec.level_sizes)
            parts = self.parts if encoded else None  # latent vectors come with the examples of the run, later
            return DocidLearner(self.experiment, store, books, learning, log, parts).learn(corpus)

        self._make(QUANTISER, lambda path: learned()[0].save(path), like)
        self._make("docids", lambda path: learned()[1].save(path), like)

    def _build_store(self, path: Path, corpus: Corpus, table: DocidTable) -> None:
        before = self.folder / LEARNING / "examples"
        trained = path != before and before.is_dir()
        if trained:
            vocabulary = ExampleStore.open(before).vocabulary
        else:
            vocabulary = self._made_vocabulary(corpus)
        codec = document_codec(self.experiment, table, vocabulary.size, vocabulary.encode)
        build_store(path, corpus, codec.encode(table), vocabulary, codec=codec, docids_fingerprint=table.fingerprint)

    def _made_vocabulary(self, corpus: Corpus) -> Vocabulary:
        if self.experiment.vocabulary is None:
            encoder = self.parts.pretrained
            return EncoderVocabulary(encoder.tokenizer, pad=encoder.pad)
        return make_vocabulary(corpus, **dataclasses.asdict(self.experiment.vocabulary))

    # --- The prepared run ---

    @functools.cached_property
    def corpus(self) -> Corpus:
        """Documents, queries and judgements."""
        return dataclasses.replace(self._read_quietly(read_beir), name=self.settings["corpus"])

    @functools.cached_property
    def store(self) -> ExampleStore:
        """Tokenised sources of the training examples."""
        store = ExampleStore.open(self.folder / "examples")
        for name in ("corpus", "docids", "vocabulary"):
            self._require(name, store.manifest[f"{name}_fingerprint"], self.folder / "examples")
        return store

    @functools.cached_property
    def parts(self) -> EncoderParts:
        """The parts that come from a pretrained encoder and a plan."""
        return EncoderParts(self.folder, self.experiment)

    @property
    def vocabulary(self) -> Vocabulary:
        """The text vocabulary."""
        return self.store.vocabulary

    @functools.cached_property
    def sampler(self) -> SamplerConfig:
        """How examples are drawn, and how long inputs are."""
        return dataclasses.replace(self.experiment.sampler, terms=self.model.plan_terms)

    @functools.cached_property
    def plan_tables(self) -> PlanTables | None:
        """The facts of the network's plan about the docids; None without a plan."""
        plan = self.model.plan
        if plan is None:
            return None
        return self.parts.plan_documents(plan, self.store, self.added).tables(self.model, self.encoded)

    @property
    def codec(self) -> DocidCodec:
        """How codes become decoder tokens."""
        text = self.settings["codec"]["kind"] == "text"
        return DocidCodec.from_json(self.settings["codec"], self.vocabulary.encode if text else None)

    @property
    def input_widths(self) -> Sequence[int]:
        """Tokens that short queries may be cut to: half as many each time, down to 16."""
        longest = self.sampler.input_length
        return [longest >> halvings for halvings in range(1, (longest // _SHORTEST).bit_length())]

    @functools.cached_property
    def later(self) -> Bool[np.ndarray, " n"]:
        """Documents that training is not shown."""
        later = np.zeros(len(self.corpus), bool)
        later[self.store.hidden_documents(self.sampler.unseen_split)] = True
        later[self.store.num_documents :] = True
        return later

    @functools.cached_property
    def docid_model(self) -> DocidModel | None:
        """The network that gives later documents their docids, where docids were learned."""
        return self.quantiser if isinstance(self.quantiser, DocidModel) else None

    @property
    def start_changes(self) -> bool:
        """Whether documents were added whose texts take part in the start."""
        return self.added is not None and self.model.head == "prefix"

    def facts(self) -> DocumentFacts:
        """Return what a start may ask about the corpus."""
        later: dict[str, Any] = {}
        if self.added is not None:
            tokens = [self.vocabulary.encode(text) for text in self.added.texts]
            counts = token_counts(tokens, self.store.vocabulary_size)
            later = {"later": counts, "later_vectors": self.added.vectors}
        return DocumentFacts(
            store=self.store,
            seed=self.seed,
            docids=None if self.settings["codec"]["kind"] == "text" else self.encoded,
            unseen_split=self.sampler.unseen_split,
            parts=self.parts,
            **later,
        )

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the network that learned the docids is trained on."""
        params = super().start_params()
        if self.docid_model is None or self.model.head == "prefix" or self.model.plan is not None:
            return params  # its codes are no tokens of a decoder that writes docids only
        return self.docid_model.grown(params)

    def task(self) -> RetrievalTask:
        """Return the task that is trained."""
        sampler = Sampler(self.store, self.sampler, seed=self.seed, batch_size=self.experiment.trainer.batch_size)
        return self._task_on(self.parts.pool(sampler, self.model) if self.experiment.pool else sampler)

    def planned_task(self) -> RetrievalTask | None:
        """Return the task of a network with a plan, without examples; None without a plan."""
        return None if self.model.plan is None else self._task_on(None)

    def _task_on(self, source: Sampler | EncodedPool | None) -> RetrievalTask:
        plan = self.plan_tables and PlannedDocids.of(self.plan_tables, self.encoded, ~self.later)
        left_out, losses = self.parts.left_out(self.model.plan, self.store), self.experiment.losses
        return RetrievalTask(self.model, source, self.training_tree, plan=plan, left_out=left_out, **losses)

    def extended(
        self,
        doc_ids: Sequence[str],
        *,
        titles: Sequence[str] = (),
        texts: Sequence[str] = (),
        vectors: np.ndarray | None = None,
    ) -> "Documents":
        """Return the run with further documents, whose docids follow from their texts or vectors."""
        prefix = self.model.head == "prefix"
        if prefix and not getattr(self.experiment.start, "covers_new_documents", False):
            raise InputError(
                "the prefix head cannot score documents added after training",
                file=self.folder,
                expected="the vocabulary head, or a start that makes node vectors from texts",
                fix="train with T5Config.head = 'vocabulary' or Experiment.start = @LsaStart()",
            )
        if self.quantiser is None:
            raise InputError(
                f"docids of the strategy {self.table.strategy.get('name', '')!r} for new documents",
                file=self.folder,
                expected="docids that follow from texts or vectors",
                fix="train with Experiment.docids = @ResidualKMeans() or @LearnedDocids()",
            )
        corpus = self.corpus.extended(doc_ids, titles, texts)
        new = [corpus.document_text(index) for index in range(len(self.corpus), len(corpus))]
        encoded = self.parts.encoder.vectors(new, "passage") if self.parts.has_vectors else None
        if vectors is None and self.experiment.vectors is None:
            vectors = encoded
        if self.docid_model is not None:
            vectors = self.vocabulary.encode_rows(new, self.docid_model.width, append_eos=self.sampler.append_eos)
        if vectors is None:
            raise InputError(
                "new documents without vectors",
                file=self.folder,
                expected="docids of an encoder's vectors, or docids that were learned with the model",
                fix="train with the recipe 'pretrained' or 'genret'",
            )
        grown = Documents(self.folder, self.experiment, self.settings)
        grown.corpus, grown.table = corpus, self._appended(self.quantiser, doc_ids, vectors, corpus.fingerprint)
        grown.added = Added(texts=new, vectors=encoded).after(self.added)
        if prefix:
            grown.model = self._with_room_for(grown.encoded)
        return grown

    # --- Requests ---

    @property
    def writes_queries(self) -> bool:
        """Whether the decoder writes queries for documents, not docids."""
        return self.sampler.writes_queries

    def require_ranks(self) -> None:
        """Refuse a run whose decoder writes queries."""
        if self.writes_queries:
            raise InputError(
                "this run writes queries for documents, not docids",
                file=self.folder,
                fix="use it with 'genret queries generate', or give a run that was trained on docids",
            )

    def unknown_words(self, request: str) -> bool:
        """Return whether the vocabulary knows no word of a query, such as one in another script."""
        return not self.vocabulary.is_known(request)

    def encode(self, requests: Sequence[str]) -> Int[np.ndarray, "q l"]:
        """Tokenise queries as the encoder's input: cut to its length, padded with 0."""
        for number, text in enumerate(requests, 1):
            if not isinstance(text, str):
                self.require_request(type(text))
            if not self.vocabulary.words(text):
                raise InputError(f"query {number} ({text!r}) has no words", fix="give a query with at least one word")
        form = self.sampler
        tokens = self.vocabulary.encode_rows(requests, form.input_length, append_eos=form.append_eos)
        return np.concatenate([tokens, self.store.term_rows(requests, form.terms)], axis=1) if form.terms else tokens

    def requests(self, split: str, measured: Measured) -> Requests:
        """Return the queries of a split."""
        test = evaluation_split(self.corpus, split)
        ids, tokens = self.store.queries(split, **self.sampler.input_form)
        row = {query: number for number, query in enumerate(ids)}
        texts = {query: self.corpus.queries[query] for query in test.qrels}
        return Requests(split=test, tokens=tokens[[row[query] for query in test.qrels]], texts=texts)

    def some_requests(self, split: str, most: int) -> Requests:
        """Return at most ``most`` queries, spread over the split as its order may follow the documents."""
        judged = self.corpus.qrels[split]
        ids, tokens = self.store.queries(split, **self.sampler.input_form)
        chosen = evenly_spread(np.arange(len(ids)), most)
        qrels: Mapping[str, Mapping[str, int]] = {ids[row]: judged[ids[row]] for row in chosen}
        return Requests(split=EvaluationSplit(name=split, qrels=qrels), tokens=tokens[chosen])

    def validation(self) -> Requests | None:
        """Return validation queries; None where there are none, or the decoder writes queries."""
        if self.sampler.writes_queries or not self.corpus.qrels.get("validation"):
            return None
        return self.some_requests("validation", self.evaluation.validation_queries)

    def memorisation(self, most: int = _MEMORISED) -> Requests:
        """Return at most ``most`` documents as queries for themselves."""
        documents = np.asarray(evenly_spread(self.store.documents_with_text, most))
        tokens = self.store.document_inputs(documents=documents, **self.sampler.input_form)
        return Requests(split=memorisation_split(self.corpus.doc_ids[index] for index in documents), tokens=tokens)

    # --- Reports ---

    def baselines(self, requests: Requests, depth: int, measured: Measured) -> list[SystemRun]:
        """Return BM25's answers, in several forms."""
        if not measured.bm25:
            return []
        return bm25_answers(self.corpus, self.vocabulary.normalization, requests.split.qrels)

    def baselines_of_run(self, name: str, requests: Requests, depth: int, measured: Measured) -> list[SystemRun]:
        """Return the answers of what the run's plan is made of, and of a dual encoder with the run's encoder."""
        alone = []
        if (plan := self.model.plan) is not None:
            stop_terms = self.facts().stop_terms()
            alone = self.parts.alone(name, plan, self.store, self.corpus, requests.texts, depth, stop_terms)
        if not measured.dual_encoder:
            return alone
        from genret_jax.baselines.dual_encoder import train_and_answer, trainer_like

        validated, pretrained = "validation" in self.store.splits, self.model.encoder is not None
        return alone + train_and_answer(
            self.store,
            requests.texts,
            depth,
            name=name,
            network=self.model,
            sampler=self.sampler,
            trainer=trainer_like(self.folder, seed=self.seed, validated=validated, pretrained=pretrained),
            folder=self.folder / "dual_encoder",
            init_params=self.start_params(),
            passage_form=self.parts.pretrained.form("passage") if pretrained else None,
        )
