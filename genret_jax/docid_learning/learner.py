"""Docids that are learned while a run is prepared: GenRet's progressive training (Sun et al. 2023, arXiv 2304.04171).

Level by level (section 3.3): documents and queries are drawn together without codes; a codebook is made of the
documents' states by k-means; it is trained with the network, with a look in between at which codes no document has;
and at last documents and queries follow the codes that are now fixed. Each of these phases is a training of its own, by
the loop that trains runs, in a folder of its own below the run's: stopped, it goes on from its last checkpoint.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from genret_jax.config.experiment import Experiment
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.examples.store import ExampleStore
from genret_jax.docid_learning.model import Codebooks, DocidModel, states_of, written_codes
from genret_jax.docid_learning.task import DocidLearningTask, Phase, prefix_numbers
from genret_jax.docids import DocidTable, LearnedDocids
from genret_jax.docids.balanced import balanced_kmeans
from genret_jax.docids.diagnostics import describe_level
from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.separating import with_separating
from genret_jax.errors import CollapsedError, InputError
from genret_jax.models.config import T5Config
from genret_jax.storage import fingerprint, load_arrays, save_arrays
from genret_jax.training import TrainerConfig, train
from genret_jax.training.initial import DocumentFacts, initial_params, random_params

Log = Callable[[str], None]

# A codebook of which so few codes tell documents apart, by their perplexity, has collapsed.
_LEAST_SHARE = 0.25
# What rounding leaves of a state less an equal one, at most, as a share of its length.
_NOTHING_LEFT = 1e-4
_KIND, _VERSION = "learned_levels", 1


def learn_docids(
    experiment: Experiment,
    corpus: Corpus,
    store: ExampleStore,
    model: T5Config,
    folder: Path,
    log: Callable[[str], None],
) -> tuple[DocidModel, DocidTable]:
    """Train a tokeniser, or go on with it, and give every document its docid.

    Documents of ``SamplerConfig.unseen_split`` are not trained on, and get theirs from the trained network.

    Args:
        experiment: With :class:`~genret_jax.docids.LearnedDocids`.
        corpus: The documents.
        store: Their tokens and queries; its docids are not read.
        model: The network, with room for the codes.
        folder: For the trainings; may be removed afterwards.
        log: Receives a line for each codebook.

    Raises:
        InputError: If there are fewer documents than codes, or a codebook collapses.
        KeyboardInterrupt: If SIGINT or SIGTERM stopped it, when the checkpoint to go on from is written.
    """
    learner = _Learner(experiment, store, model, folder, log)
    return learner.learn(corpus)


class _Learner:
    def __init__(
        self, experiment: Experiment, store: ExampleStore, model: T5Config, folder: Path, log: Callable[[str], None]
    ):
        assert isinstance(experiment.docids, LearnedDocids)
        self._experiment, self._strategy, self._store = experiment, experiment.docids, store
        self._folder, self._log, self._seed = folder, log, experiment.docid_seed
        sizes = (self._strategy.codebook,) * self._strategy.levels
        self._books = Codebooks(config=model, first_token=store.vocabulary_size, level_sizes=sizes)
        self._tokens = store.document_inputs(self._strategy.document_length, append_eos=experiment.sampler.append_eos)
        self._task = DocidLearningTask(self._books, self._tokens, self._strategy)
        self._shown = self._sampler(0).documents
        self._codes = np.full((len(self._tokens), len(sizes)), -1, np.int32)
        self._course: list[dict[str, Any]] = []
        if len(self._shown) < self._strategy.codebook:
            owner = "LearnedDocids.codebook"
            fits = max(2, len(self._shown) // 8)
            raise InputError(
                f"{len(self._shown):,} documents to learn from, for codebooks of {self._strategy.codebook:,}",
                file=experiment.corpus,
                expected="at least as many documents as codes",
                fix=f"set {owner} to {fits} or so: --gin.{owner}={fits}",
            )

    def _sampler(self, seed: int) -> Sampler:
        # Each phase counts its steps from 0, so that all of one could show indexing and no query.
        config = dataclasses.replace(self._experiment.sampler, indexing_first=0)
        return Sampler(self._store, config, seed=seed, batch_size=self._experiment.trainer.batch_size)

    def learn(self, corpus: Corpus) -> tuple[DocidModel, DocidTable]:
        """Learn all levels, and give every document its docid."""
        levels = range(self._strategy.levels)
        groups: list[tuple[int, ...]] = [(level,) for level in levels]
        if not self._strategy.progressive:
            groups = [tuple(levels)]
        params, done = self._begun(groups)
        for number in range(done, len(groups)):
            try:
                params = self._learn(groups[number], params)
            except CollapsedError:
                self._remove_phases(number)  # gone on with, they would come to the same
                raise
            self._keep(number, params)
        tokeniser = DocidModel.of(params, self._books, length=self._tokens.shape[1])
        new = np.setdiff1d(np.arange(len(self._codes)), self._shown)
        if len(new):
            self._codes[new] = tokeniser.codes(self._tokens[new])
        order = np.concatenate([self._shown, new]).astype(np.int64)
        codes, level_sizes = with_separating(self._codes, self._books.level_sizes, order)
        made_by = {
            "name": self._strategy.name,
            **dataclasses.asdict(self._strategy),
            "seed": self._seed,
            "quantiser": tokeniser.fingerprint,
            "course": self._course,
        }
        table = DocidTable.from_codes(
            corpus.doc_ids, codes, level_sizes=level_sizes, strategy=made_by, corpus_fingerprint=corpus.fingerprint
        )
        return tokeniser, table

    def _begun(self, groups: list[tuple[int, ...]]) -> tuple[Any, int]:
        """Return the parameters to go on from, and how many groups of levels have been learned."""
        for number in reversed(range(len(groups))):
            if not (kept := self._folder / f"learned_{number + 1}").is_dir():
                continue
            arrays, manifest = load_arrays(kept, kind=_KIND, version=_VERSION)
            if manifest["examples"] != self._store.fingerprint:
                raise InputError(
                    "docids that were learned from other examples",
                    file=kept,
                    fix="remove the folder, and docids are learned again",
                )
            self._codes, self._course = np.array(arrays.pop("codes")), manifest["course"]
            return flax.traverse_util.unflatten_dict(dict(arrays), sep="."), number + 1
        config, unseen = self._books.config, self._experiment.sampler.unseen_split
        facts = DocumentFacts(store=self._store, seed=self._seed, docids=None, unseen_split=unseen)
        return initial_params(random_params(config, self._seed), config, self._experiment.start, facts), 0

    def _keep(self, number: int, params: Any) -> None:
        """Keep what has been learned, and no longer how."""
        arrays = flax.traverse_util.flatten_dict(params, sep=".") | {"codes": self._codes}
        details = {"course": self._course, "examples": self._store.fingerprint}
        save_arrays(self._folder / f"learned_{number + 1}", arrays, kind=_KIND, version=_VERSION, details=details)
        self._remove_phases(number)

    def _remove_phases(self, number: int) -> None:
        for phase in self._folder.glob(f"{number + 1}_*"):
            shutil.rmtree(phase)

    def _learn(self, levels: tuple[int, ...], params: Any) -> Any:
        """Learn some levels, those before them fixed."""
        known, rounds = levels[0], 2 * len(levels)
        # All phases alike, so that they are one program.
        steps = -(-self._strategy.steps * len(levels) // (rounds + 2))
        params = self._train(0, "together", Phase(levels=levels[:1], known=known, coded=False), params, steps)
        for level in levels:
            params = self._with_codebook(params, level)
            self._give_codes(params, (level,))
        for number in range(1, rounds + 1):
            params = self._train(number, f"round {number}", Phase(levels=levels, known=known), params, steps)
            self._give_codes(params, levels)
            self._look(f"round {number}", levels)
            if number < rounds:
                params = self._revived(params, levels)
        fixed = Phase(levels=(), known=levels[-1] + 1)
        params = self._train(rounds + 1, "fixed", fixed, params, steps)
        self._give_codes(params, levels)
        self._look("fixed", levels)
        for of_level in self._course[-len(levels) :]:
            self._tell(of_level)
        return params

    def _train(self, number: int, name: str, phase: Phase, params: Any, steps: int) -> Any:
        group = phase.known + bool(phase.levels) if self._strategy.progressive else 1
        # Of its own, so that no phase shows the batches of another.
        seed = int(np.random.SeedSequence([self._seed, group, number]).generate_state(1)[0])
        self._task.begin(phase, self._sampler(seed), self._codes.copy())
        learned = f"level {group} of {self._strategy.levels}" if self._strategy.progressive else "all levels"
        self._log(f"docids      {learned}: {name}")
        result = train(
            self._task,
            self._trainer(steps),
            self._folder / f"{group}_{number}_{name.split()[0]}",
            init_params=params,
            fingerprint={
                "examples": self._store.fingerprint,
                "learned": learned,
                "phase": name,
                "codes so far": fingerprint(self._codes),
            },
        )
        result.require_whole()
        return jax.tree.map(np.asarray, result.params)

    def _trainer(self, steps: int) -> TrainerConfig:
        """Return the run's trainer for a phase, which is not validated and whose losses compare all of a batch."""
        return dataclasses.replace(
            self._experiment.trainer,
            steps=steps,
            seed=self._seed,
            gradient_accumulation=1,
            evaluate_every=None,
            evaluate_at_start=False,
            best_metric=None,
            keep=1,
            tensorboard=False,
        )

    def _with_codebook(self, params: Any, level: int) -> Any:
        """Make a codebook of clusters of the documents' states, less what those of the same prefix have in common."""
        clusters = self._strategy.codebook
        vectors, _ = self._directions(params, level, clusters)
        if self._strategy.balanced:
            centroids = balanced_kmeans(vectors, clusters, self._seed + level)
        else:
            centroids = KMeans(clusters=clusters).fit(vectors, self._seed + level).centroids[0]
        start = self._experiment.start
        # A start from the corpus has input vectors of that length; a public checkpoint has some of its own.
        norm = getattr(start, "node_scale", None)
        return self._books.with_vectors(params, level, dict(enumerate(centroids)), read_norm=norm)

    def _directions(
        self, params: Any, level: int, needed: int
    ) -> tuple[Float32[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        """Return states less what those of the same prefix have in common, and which of the shown documents' they are.

        Documents of which nothing is left, as they are alone with their prefix or equal to all others there, are left
        out. Where that leaves fewer than are needed, new documents are all that is left to do: states as they are.
        """
        states = self._states(params, level)
        centred = self._centred(states, level)
        lengths = np.linalg.norm(centred, axis=1)
        apart = np.flatnonzero(lengths > _NOTHING_LEFT * np.linalg.norm(states, axis=1))
        return (centred[apart], apart) if len(apart) >= needed else (states, np.arange(len(states)))

    def _centred(self, states: Float32[np.ndarray, "n d"], level: int) -> Float32[np.ndarray, "n d"]:
        prefix = prefix_numbers(self._codes[self._shown, :level])
        sums = np.zeros((prefix.max() + 1, states.shape[1]), np.float32)
        np.add.at(sums, prefix, states)
        means = sums / np.bincount(prefix)[:, None].astype(np.float32)
        centred: np.ndarray = states - means[prefix]
        return centred

    def _states(self, params: Any, level: int) -> Float32[np.ndarray, "n d"]:
        codes = self._codes[self._shown]
        return np.array(states_of(params, self._tokens[self._shown], codes, self._books, level))

    def _shares_prefix(self, level: int) -> Bool[np.ndarray, " n"]:
        """Return which documents the levels before do not tell from all others."""
        prefix = prefix_numbers(self._codes[self._shown, :level])
        return np.bincount(prefix)[prefix] > 1

    def _revived(self, params: Any, levels: tuple[int, ...]) -> Any:
        """Move codes that no document has to documents of the codes that most have (section 3.4)."""
        for level in levels:
            of_documents = self._codes[self._shown, level]
            counts = np.bincount(of_documents, minlength=self._strategy.codebook)
            unused = np.flatnonzero(counts == 0)
            if not len(unused):
                continue
            norms = np.linalg.norm(self._books.vectors(params, level), axis=1)
            length = norms[counts > 0].mean()
            directions, documents = self._directions(params, level, len(unused))
            of_documents = of_documents[documents]
            counts = np.bincount(of_documents, minlength=self._strategy.codebook)
            random, moved = np.random.default_rng([self._seed, level]), {}
            for code in unused:
                crowded = int(np.argmax(counts))
                direction = directions[random.choice(np.flatnonzero(of_documents == crowded))]
                moved[int(code)] = length * direction / max(float(np.linalg.norm(direction)), 1e-9)
                # As many as it is left with, so that the next goes elsewhere.
                counts[crowded] = max(1, counts[crowded] // 2)
            params = self._books.with_vectors(params, level, moved)
        return params

    def _give_codes(self, params: Any, levels: Sequence[int]) -> None:
        """Write the codes of some levels, after those that are known."""
        codes = self._codes[self._shown]
        written = np.asarray(written_codes(params, self._tokens[self._shown], codes, self._books, levels[0]))
        self._codes[self._shown[:, None], np.array(levels)[None]] = written[:, list(levels)]

    def _look(self, phase: str, levels: tuple[int, ...]) -> None:
        """Add to the course how the codes are used now, and stop where they are not."""
        codes = self._codes[self._shown]
        for level in levels:
            before, after = (prefix_numbers(codes[:, :length]) for length in (level, level + 1))
            figures = describe_level(self._strategy.codebook, codes[:, level], before, after)
            self._course.append({"level": level + 1, "phase": phase, **figures})
            perplexity = figures["perplexity"]
            # Where the levels before tell most documents apart, few codes will do.
            most = min(self._strategy.codebook, int(self._shares_prefix(level).sum()))
            if phase == "fixed" and perplexity < _LEAST_SHARE * most:
                raise CollapsedError(
                    f"the codebook of level {level + 1} has collapsed: {figures['used']} of "
                    f"{self._strategy.codebook} codes are used, "
                    f"with a perplexity of {perplexity:.1f}",
                    file=self._experiment.corpus,
                    expected=f"a perplexity of {_LEAST_SHARE * most:.1f} or more",
                    fix="set LearnedDocids.balanced = True, more .steps, or a smaller .codebook, in a new --run folder",
                )

    def _tell(self, of_level: dict[str, Any]) -> None:
        self._log(
            f"docids      level {of_level['level']}: {of_level['used']} of {self._strategy.codebook} codes used, "
            f"perplexity {of_level['perplexity']:.1f}; {of_level['prefixes']:,} docids so far"
        )
