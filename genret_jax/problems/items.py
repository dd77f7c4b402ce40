"""Items: a user's history in, docids of items out (TIGER)."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.baselines.recommenders import ItemNeighbours, Popularity
from genret_jax.config.experiment import Recommendation
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.histories import HistoryConfig, cold_items, history_tokens
from genret_jax.data.examples.history_examples import EvenSampler, HistoryExamples, PackedHistories
from genret_jax.data.interactions import EMBEDDINGS, Interactions, read_interactions, write_interactions
from genret_jax.data.item_vectors import start_vectors, vectors_of_items
from genret_jax.data.splits import evenly_spread
from genret_jax.data.vectors import LsaVectors
from genret_jax.docids import (
    DocidCodec,
    DocidTable,
    LshDocids,
)
from genret_jax.errors import InputError, nearest
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun
from genret_jax.evaluation.recommendation import answers_of, recommendation_split
from genret_jax.evaluation.report import System, cost
from genret_jax.problems.problem import Problem, Setup, say
from genret_jax.problems.requests import History, Measured, Requests
from genret_jax.problems.sizing import item_network, sizes_with_room
from genret_jax.storage import load_arrays, save_arrays
from genret_jax.training.history_task import HistoryTask, PackedHistoryTask

START_VECTORS, _VERSION = "start_vectors", 1
_NEW = 0.1  # share of new items in the second ranking of a report, where training was not shown some


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemFacts:
    """Facts about the items that training is shown, for :class:`genret_jax.models.start.Start`.

    Attributes:
        seed: Seed of the run.
        run: The run.
    """

    seed: int
    run: "Items"

    @property
    def docids(self) -> Any:
        """The encoded docids of all items."""
        return self.run.encoded

    def item_tokens(self) -> Int32[np.ndarray, "n m"]:
        """Return the docid tokens of the items."""
        return np.split(self.run.item_inputs, 2, axis=1)[0][~self.run.later]

    def item_nodes(self) -> Int32[np.ndarray, "n m"]:
        """Return the tree nodes that these tokens lead to."""
        return np.split(self.run.item_inputs, 2, axis=1)[1][~self.run.later]

    def item_vectors(self) -> np.ndarray:
        """Return a vector of length 1 for each item [n, d]."""
        vectors: np.ndarray = load_arrays(self.run.folder / START_VECTORS, kind=START_VECTORS, version=_VERSION)[0][
            "items"
        ]
        return vectors[~self.run.later]


class Items(Problem):
    """Items, and the histories of their users."""

    experiment_class = Recommendation
    kind = "items"
    request = (History, "history", "recommend")
    primary_metric = "ndcg@10"
    baseline_names = frozenset({"popularity", "item neighbours", "SASRec, sampled BCE", "SASRec, full softmax"})
    measures = frozenset({"untrained", "sasrec", "exclude_history"})

    experiment: Recommendation

    # --- Preparing ---

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Interactions:
        """Read a folder of items and histories."""
        return read_interactions(folder)

    def prepare(self, data: Interactions, log: Callable[[str], None], like: Path | None) -> Setup:
        """Write interactions, docids and, for a start from vectors, these."""
        experiment = self.experiment
        self._make("corpus", lambda path: write_interactions(data, path), like)
        log(f"items       {len(data.items):,} items, {data.num_users:,} users, {len(data.item):,} interactions")
        vectors = functools.cache(lambda: self._vectors(data, log))
        table = self._made_docids(data, vectors, log, like)
        if experiment.start is not None:
            self._make(START_VECTORS, lambda path: self._save_start(data, vectors(), path), like)
        codec = DocidCodec(first_token=2, level_sizes=sizes_with_room(experiment.docids, table))
        encoded = codec.encode(table)
        return Setup(
            name=data.name,
            codec=codec,
            model=item_network(experiment, codec, encoded.tree.num_nodes, encoded.tokens.shape[1]),
            fingerprints={"corpus": data.fingerprint, "docids": table.fingerprint},
        )

    def _made_docids(
        self, data: Interactions, vectors: Callable[[], np.ndarray], log: Callable[[str], None], like: Path | None
    ) -> DocidTable:
        if not isinstance(self.experiment.docids, str):
            self._require_enough_items(len(data.items))
        new = cold_items(len(data.items), self.experiment.cold_items)
        return self._make_docids(data.items, vectors, log, like, unseen=new)

    def _require_enough_items(self, items: int) -> None:
        strategy = self.experiment.docids
        codebook, fitting = getattr(strategy, "codebook", 0), max(2, items // 8)
        if items < codebook:
            setting, value = f"{type(strategy).__name__}.codebook", fitting
            if isinstance(strategy, LshDocids):
                setting, value = "LshDocids.hyperplanes", fitting.bit_length() - 1
            raise InputError(
                f"{items:,} items for codebooks of {codebook:,}",
                file=self.experiment.corpus,
                expected="at least as many items as codes; a code of its own for each item says nothing",
                fix=f"set {setting} to {value} or so: --gin.{setting}={value}",
            )

    def _save_start(self, data: Interactions, content: np.ndarray, path: Path) -> None:
        cold = cold_items(len(data.items), self.experiment.cold_items)
        items = start_vectors(data, content, self.experiment.model.d_model, seed=self.seed, cold=cold)
        save_arrays(path, {"items": items}, kind=START_VECTORS, version=_VERSION)

    def _vectors(self, data: Interactions, log: Callable[[str], None]) -> np.ndarray:
        source = self.experiment.vectors or vectors_of_items(self.experiment.corpus, log)
        if isinstance(source, LsaVectors) and not any(data.items.titles) and not any(data.items.texts):
            raise InputError(
                f"items without texts, and no {EMBEDDINGS} beside them, to make vectors from",
                file=self.experiment.corpus,
                expected="either, because these docids or this start are made from vectors",
                fix="give one of them, or use --gin-file ablations/ids_random.gin --gin.Recommendation.start=None",
            )
        return source.vectors(data.items)

    # --- The prepared run ---

    @functools.cached_property
    def interactions(self) -> Interactions:
        """Items and users' histories."""
        found: Interactions = self._read_quietly(read_interactions)
        return found.renamed(self.settings["corpus"])

    @property
    def corpus(self) -> Corpus:
        """The items."""
        return self.interactions.items

    @property
    def histories(self) -> HistoryConfig:
        """How histories are shown."""
        return self.experiment.histories

    @functools.cached_property
    def later(self) -> Bool[np.ndarray, " n"]:
        """Items that training is not shown."""
        return cold_items(len(self.corpus), self.experiment.cold_items)

    @property
    def rankings(self) -> Mapping[str, float | None]:  # type: ignore[override]
        """Rankings of a report: by score, and with a share of new items where some are new to training."""
        return {"": None, f", {_NEW:.0%} new": _NEW} if self.later.any() else {"": None}

    @functools.cached_property
    def item_tokens(self) -> Int32[np.ndarray, "n m"]:
        """The docid of every item as tokens, padded with 0; the first, where an item has several."""
        return self.encoded.tokens[self.row_of_document]

    @functools.cached_property
    def item_nodes(self) -> Int32[np.ndarray, "n m"]:
        """The tree's node before each of those tokens."""
        return self.encoded.prefix_nodes[self.row_of_document]

    @functools.cached_property
    def item_inputs(self) -> Int32[np.ndarray, "n t"]:
        """Every item as the encoder reads it: its docid, and for whole items the nodes that its tokens lead to."""
        if not self.histories.whole_items:
            return self.item_tokens
        reached = self.encoded.tree.children(self.item_nodes, self.item_tokens)
        return np.concatenate([self.item_tokens, np.where(self.item_tokens > 0, reached, 0)], axis=1)

    def user_tokens(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"] | None:
        """Return the encoder's token of each user, behind those of the codes; None where the model knows no users."""
        if not self.histories.user_tokens:
            return None
        return np.int32(self.codec.vocab_size) + self.histories.user_numbers(user_ids)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Columns that the encoder is compiled for, so that short histories need no padding to the longest."""
        lengths = [2**power for power in range(1, self.histories.items.bit_length())]
        return tuple(bool(self.histories.user_tokens) + items * self.item_inputs.shape[1] for items in lengths)

    def facts(self) -> ItemFacts:
        """Return what a start may ask about the items."""
        return ItemFacts(seed=self.seed, run=self)

    def task(self) -> HistoryTask | PackedHistoryTask:
        """Return the task that is trained."""
        histories, examples = self.histories, None
        if histories.causal:
            packed = PackedHistories.of(self.interactions, histories.items, cold=self.later)
        else:
            examples = HistoryExamples.of(self.interactions, histories, cold=self.later)
        batch_size = self.experiment.trainer.batch_size
        common: dict[str, Any] = {
            "config": self.model,
            "sampler": EvenSampler(len(examples or packed), seed=self.seed, batch_size=batch_size),
            "item_inputs": self.item_inputs,
            "item_tokens": self.item_tokens,
            "item_nodes": self.item_nodes,
            "tree": self.training_tree,
            **self.experiment.losses,
        }
        if examples is None:
            return PackedHistoryTask(packed, **common)
        return HistoryTask(examples, self.user_tokens(self.interactions.user_ids), histories.user_drop, **common)

    def extended(
        self,
        doc_ids: Sequence[str],
        *,
        titles: Sequence[str] = (),
        texts: Sequence[str] = (),
        vectors: np.ndarray | None = None,
    ) -> "Items":
        """Return the run with further items, whose docids come from their vectors."""
        if self.model.head == "prefix" and not self.model.shared_codes:
            raise InputError(
                "the prefix head cannot score items added after training",
                file=self.folder,
                expected="a head whose vectors are those of codes",
                fix="train with T5Config.head = 'vocabulary' or T5Config.shared_codes = True",
            )
        if self.quantiser is None:
            raise InputError(
                f"docids of the strategy {self.table.strategy.get('name', '')!r} for new items",
                file=self.folder,
                expected="docids that are made of vectors",
                fix="train with ResidualKMeans or RqVae",
            )
        if vectors is None:
            raise InputError("new items without vectors", fix="give a vector for each, made as the others' were")
        corpus = self.corpus.extended(doc_ids, titles, texts)
        grown = Items(self.folder, self.experiment, self.settings)
        grown.table = self._appended(self.quantiser, doc_ids, vectors, corpus.fingerprint)
        grown.interactions = dataclasses.replace(self.interactions, items=corpus)
        grown.later = np.concatenate([self.later, np.ones(len(doc_ids), bool)])
        if self.model.num_nodes:
            grown.model = self._with_room_for(grown.encoded)
        return grown

    # --- Requests ---

    def encode(self, requests: Sequence[History]) -> Int32[np.ndarray, "q t"]:
        """Return histories as the encoder's input; only their latest items are shown."""
        rows = [self._checked(request) for request in requests]
        shown = self.histories.items
        items = np.full((len(rows), min(shown, max(map(len, rows), default=0))), -1, np.int32)
        for row, history in enumerate(rows):
            items[row, : len(history[-shown:])] = history[-shown:]
        return self.encode_histories(items, [request.user for request in requests])

    def _checked(self, request: History) -> list[int]:
        if not isinstance(request, History):
            self.require_request(type(request))
        if request.user is not None and not self.histories.user_tokens:
            raise InputError(
                f"the user '{request.user}' for a run that knows histories alone",
                file=self.folder,
                fix="leave the user out, or train with HistoryConfig.user_tokens, as runs/tiger_paper.gin does",
            )
        if not request.items:
            raise InputError("an empty history", expected="one item or more", fix="give the ids of the user's items")
        known = self.corpus.document_index
        for item in request.items:
            if item not in known:
                hint = nearest(item, known) if len(known) <= 20_000 else ""
                raise InputError(f"there is no item '{item}'", expected="ids of the items", fix=hint or None)
        return [known[item] for item in request.items]

    def encode_histories(
        self, items: Int[np.ndarray, "q l"], user_ids: Sequence[str | None]
    ) -> Int32[np.ndarray, "q t"]:
        """Return histories as the encoder's input.

        Args:
            items: Items, oldest first, -1 behind the last; at most as many columns as the model is shown.
            user_ids: The users, None for somebody unknown.
        """
        tokens = self.user_tokens([user or "" for user in user_ids])
        if tokens is not None:
            tokens = tokens * np.array([user is not None for user in user_ids], np.int32)
        return history_tokens(items, self.item_inputs, tokens)

    def requests(self, split: str, measured: Measured) -> Requests:
        """Return the evaluated users of a split, each with the item taken next."""
        data = self.interactions
        test = recommendation_split(data, split, cold=self.later, exclude_history=measured.exclude_history)
        whole = int(data.lengths.max())
        return Requests(
            split=test,
            tokens=self.encode_histories(data.histories(split, self.histories.items), data.evaluated_ids),
            without=data.histories(split, whole) if measured.exclude_history else None,
            widths=self.input_widths,
        )

    def validation(self) -> Requests:
        """Return validation users whose item training has seen; others are no reason to prefer a checkpoint."""
        data, targets = self.interactions, self.interactions.item[self.interactions.targets("validation")]
        chosen = evenly_spread(np.flatnonzero(~self.later[targets]), self.evaluation.validation_queries)
        users = [data.evaluated_ids[row] for row in chosen]
        tokens = self.encode_histories(data.histories("validation", self.histories.items)[chosen], users)
        wanted = [data.items.doc_ids[item] for item in targets[chosen].tolist()]
        qrels = {user: {item: 1} for user, item in zip(users, wanted, strict=True)}
        return Requests(split=EvaluationSplit(name="validation", qrels=qrels), tokens=tokens, widths=self.input_widths)

    # --- Reports ---

    def require_comparable(self, other: Problem) -> None:
        """Refuse runs whose training was not shown different items."""
        super().require_comparable(other)
        if not np.array_equal(self.later, other.later):
            raise InputError(
                "different items were held out of training",
                file=other.folder,
                expected=f"those of {self.folder}",
                fix="evaluate the runs one by one",
            )

    def baselines(self, requests: Requests, depth: int, measured: Measured) -> list[SystemRun]:
        """Return popularity, item neighbours and, if wanted, SASRec."""
        data, cold, split = self.interactions, self.later, requests.split.name
        popularity, neighbours = Popularity(data, cold=cold), ItemNeighbours(data, cold=cold)
        simple: list[tuple[Any, str, str]] = [
            (popularity, "popularity", popularity.description),
            (neighbours, "item neighbours", neighbours.config.describe()),
        ]
        excluded, found = measured.exclude_history, []
        for ranks, name, about in simple:
            details = cost(num_bytes=ranks.num_bytes, documents=len(data.items))
            system = System(name=name, description=about, details=details)
            found.append(answers_of(ranks, data, split, system, depth, exclude_history=excluded))
        for loss in ("bce", "cross_entropy") if measured.sasrec else ():
            from genret_jax.baselines.sasrec import train_and_answer

            say(f"training SASRec, {loss}")
            folder = self.folder / "sasrec" / loss
            options: dict[str, Any] = {"folder": folder, "seed": self.seed, "cold": cold, "exclude_history": excluded}
            found.append(train_and_answer(data, loss, split, depth, **options))
        return found
