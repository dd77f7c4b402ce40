"""Learning docids while a run is prepared: GenRet's progressive training (Sun et al. 2023, arXiv 2304.04171).

Section 3.3 learns level by level. A level has these phases:

1. "together": documents and queries are drawn together, still without codes of this level.
2. k-means of the documents' states makes the codebook.
3. "round 1", "round 2": the codebook is trained with the network. Unused codes are moved between the rounds.
4. "fixed": documents and queries learn to write the codes, which are now fixed.

Each phase is a training of its own in a folder of its own. A phase that was stopped continues from its last checkpoint.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import Float32, Int

from genret_jax.config.experiment import Experiment
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.examples.store import ExampleStore
from genret_jax.docid_learning.model import Codebooks, DocidModel, decoder_states, predict_codes
from genret_jax.docid_learning.task import DocidLearningTask, Phase, prefix_ids
from genret_jax.docids import DocidTable, LearnedDocids
from genret_jax.docids.balanced import balanced_kmeans
from genret_jax.docids.diagnostics import describe_level
from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.separating import with_separating
from genret_jax.errors import CollapsedError, InputError
from genret_jax.storage import fingerprint, load_arrays, save_arrays
from genret_jax.training import TrainerConfig, train
from genret_jax.training.initial import DocumentFacts, initial_params, random_params

# A codebook has collapsed if its perplexity is below this share of the largest possible one.
_MIN_PERPLEXITY_SHARE = 0.25
# Norm below which a centred state is only rounding error, as a share of the state's norm.
_ROUNDING = 1e-4
_KIND, _VERSION = "learned_levels", 1


class DocidLearner:
    """Trains the network that writes docids, or resumes its training.

    Documents of ``SamplerConfig.unseen_split`` are left out of the training; the trained network writes their docids.

    Args:
        experiment: An experiment with :class:`~genret_jax.docids.LearnedDocids`.
        store: Tokens and queries of the documents; its docids are not read.
        books: The network, with tokens for the codes.
        folder: Folder of the phases; may be removed afterwards.
        log: Receives a line per phase and codebook.
        parts: What a start may ask about a pretrained encoder (:class:`~genret_jax.training.initial.DocumentFacts`);
            None without one.

    Raises:
        InputError: If there are fewer documents than codes.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: ExampleStore,
        books: Codebooks,
        folder: Path,
        log: Callable[[str], None],
        parts: Any = None,
    ):
        assert isinstance(experiment.docids, LearnedDocids)
        self._experiment, self._strategy, self._store = experiment, experiment.docids, store
        self._folder, self._log, self._seed, self._parts = folder, log, experiment.docid_seed, parts
        self._books = books
        self._tokens = store.document_inputs(self._strategy.document_length, append_eos=experiment.sampler.append_eos)
        self._task = DocidLearningTask(self._books, self._tokens, self._strategy)
        self._training = self._sampler(0).documents
        self._codes = np.full((len(self._tokens), self._strategy.levels), -1, np.int32)
        self._course: list[dict[str, Any]] = []
        if len(self._training) < self._strategy.codebook:
            suggested = max(2, len(self._training) // 8)
            raise InputError(
                f"{len(self._training):,} documents to learn from, for codebooks of {self._strategy.codebook:,}",
                file=experiment.corpus,
                expected="at least as many documents as codes",
                fix=f"set LearnedDocids.codebook to about {suggested}: --gin.LearnedDocids.codebook={suggested}",
            )

    def learn(self, corpus: Corpus) -> tuple[DocidModel, DocidTable]:
        """Learn all levels and give every document its docid.

        Raises:
            InputError: If a codebook collapses.
            KeyboardInterrupt: If SIGINT or SIGTERM stopped a phase, after its checkpoint was written.
        """
        levels = tuple(range(self._strategy.levels))
        groups = [(level,) for level in levels] if self._strategy.progressive else [levels]
        params, done = self._resumed(len(groups))
        for number in range(done, len(groups)):
            try:
                params = self._learn_levels(groups[number], params)
            except CollapsedError:
                self._remove_phases(number)  # resuming would lead to the same collapse
                raise
            self._save(number, params)
        model = DocidModel.from_parameters(params, self._books, length=self._tokens.shape[1])
        unseen = np.setdiff1d(np.arange(len(self._codes)), self._training)
        if len(unseen):
            self._codes[unseen] = model.codes(self._tokens[unseen])
        order = np.concatenate([self._training, unseen]).astype(np.int64)
        codes, level_sizes = with_separating(self._codes, self._books.level_sizes, order)
        record = {
            "name": self._strategy.name,
            **dataclasses.asdict(self._strategy),
            "seed": self._seed,
            "quantiser": model.fingerprint,
            "course": self._course,
        }
        table = DocidTable.from_codes(
            corpus.doc_ids, codes, level_sizes=level_sizes, strategy=record, corpus_fingerprint=corpus.fingerprint
        )
        return model, table

    def _resumed(self, groups: int) -> tuple[Any, int]:
        """Return the parameters to continue from and the number of groups of levels that are done."""
        for done in range(groups, 0, -1):
            if not (saved := self._folder / f"learned_{done}").is_dir():
                continue
            arrays, manifest = load_arrays(saved, kind=_KIND, version=_VERSION)
            if manifest["examples"] != self._store.fingerprint:
                raise InputError(
                    "docids that were learned from other examples",
                    file=saved,
                    fix="remove the folder, and docids are learned again",
                )
            self._codes, self._course = np.array(arrays.pop("codes")), manifest["course"]
            return flax.traverse_util.unflatten_dict(dict(arrays), sep="."), done
        config, unseen = self._books.config, self._experiment.sampler.unseen_split
        facts = DocumentFacts(store=self._store, seed=self._seed, docids=None, unseen_split=unseen, parts=self._parts)
        return initial_params(random_params(config, self._seed), config, self._experiment.start, facts), 0

    def _save(self, number: int, params: Any) -> None:
        """Save the result of a group of levels, and remove the folders of its phases."""
        arrays = flax.traverse_util.flatten_dict(params, sep=".") | {"codes": self._codes}
        details = {"course": self._course, "examples": self._store.fingerprint}
        save_arrays(self._folder / f"learned_{number + 1}", arrays, kind=_KIND, version=_VERSION, details=details)
        self._remove_phases(number)

    def _remove_phases(self, number: int) -> None:
        for phase in self._folder.glob(f"{number + 1}_*"):
            shutil.rmtree(phase)

    def _learn_levels(self, levels: tuple[int, ...], params: Any) -> Any:
        """Learn some levels; the codes of the levels before them are fixed."""
        first, rounds = levels[0], 2 * len(levels)
        # All phases have the same length, so that they share one program.
        steps = -(-self._strategy.steps * len(levels) // (rounds + 2))
        together = Phase(levels=levels[:1], fixed=first, with_codes=False)
        params = self._train(0, "together", together, params, steps)
        for level in levels:
            params = self._with_codebook(params, level)
            self._update_codes(params, (level,))
        for number in range(1, rounds + 1):
            params = self._train(number, f"round {number}", Phase(levels=levels, fixed=first), params, steps)
            self._update_codes(params, levels)
            self._record_usage(f"round {number}", levels)
            if number < rounds:
                params = self._with_revived_codes(params, levels)
        params = self._train(rounds + 1, "fixed", Phase(levels=(), fixed=levels[-1] + 1), params, steps)
        self._update_codes(params, levels)
        self._record_usage("fixed", levels)
        for usage in self._course[-len(levels) :]:
            self._log(
                f"docids      level {usage['level']}: {usage['used']} of {self._strategy.codebook} codes used, "
                f"perplexity {usage['perplexity']:.1f}; {usage['prefixes']:,} docids so far"
            )
        return params

    def _train(self, number: int, name: str, phase: Phase, params: Any, steps: int) -> Any:
        """Train one phase and return its parameters."""
        progressive = self._strategy.progressive
        group = phase.fixed + bool(phase.levels) if progressive else 1
        # Every phase has a seed of its own, so that no two phases have the same batches.
        seed = int(np.random.SeedSequence([self._seed, group, number]).generate_state(1)[0])
        self._task.start_phase(phase, self._sampler(seed), self._codes.copy())
        levels = f"level {group} of {self._strategy.levels}" if progressive else "all levels"
        self._log(f"docids      {levels}: {name}")
        result = train(
            self._task,
            self._trainer(steps),
            self._folder / f"{group}_{number}_{name.split()[0]}",
            init_params=params,
            fingerprint={
                "examples": self._store.fingerprint,
                "learned": levels,
                "phase": name,
                "codes so far": fingerprint(self._codes),
            },
        )
        result.require_whole()
        return jax.tree.map(np.asarray, result.params)

    def _sampler(self, seed: int) -> Sampler:
        # With indexing_first a whole phase could pass without a query, as each counts its steps from 0.
        config = dataclasses.replace(self._experiment.sampler, indexing_first=0)
        return Sampler(self._store, config, seed=seed, batch_size=self._experiment.trainer.batch_size)

    def _trainer(self, steps: int) -> TrainerConfig:
        """Return the run's trainer for a phase: without validation, and without splitting batches."""
        return dataclasses.replace(
            self._experiment.trainer,
            steps=steps,
            seed=self._seed,
            gradient_accumulation=1,  # the losses compare all documents of a batch
            evaluate_every=None,
            evaluate_at_start=False,
            best_metric=None,
            keep=1,
            tensorboard=False,
        )

    def _with_codebook(self, params: Any, level: int) -> Any:
        """Make the codebook of a level by clustering the documents' centred states."""
        clusters, seed = self._strategy.codebook, self._seed + level
        vectors, _ = self._centred_states(params, level, clusters)
        if self._strategy.balanced:
            centroids = balanced_kmeans(vectors, clusters, seed)
        else:
            centroids = KMeans(clusters=clusters).fit(vectors, seed).centroids[0]
        # A start from the corpus sets the norm of input vectors; public checkpoints have their own.
        norm = getattr(self._experiment.start, "node_scale", None)
        return self._books.with_vectors(params, level, dict(enumerate(centroids)), input_norm=norm)

    def _centred_states(
        self, params: Any, level: int, needed: int
    ) -> tuple[Float32[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        """Return states minus the mean state of their prefix, and the positions of their documents in the training set.

        Documents that are alone with their prefix, or equal to all others with it, have a centred state of 0 and are
        left out. If fewer than ``needed`` documents are left, the states of all documents are returned uncentred:
        then a code can only separate documents that come later.
        """
        states = self._states(params, level)
        prefix = prefix_ids(self._codes[self._training, :level])
        sums = np.zeros((prefix.max() + 1, states.shape[1]), np.float32)
        np.add.at(sums, prefix, states)
        centred = states - (sums / np.bincount(prefix)[:, None].astype(np.float32))[prefix]
        distinct = np.flatnonzero(np.linalg.norm(centred, axis=1) > _ROUNDING * np.linalg.norm(states, axis=1))
        return (centred[distinct], distinct) if len(distinct) >= needed else (states, np.arange(len(states)))

    def _states(self, params: Any, level: int) -> Float32[np.ndarray, "n d"]:
        codes = self._codes[self._training]
        return np.array(decoder_states(params, self._tokens[self._training], codes, self._books, level))

    def _with_revived_codes(self, params: Any, levels: tuple[int, ...]) -> Any:
        """Move unused codes to documents of the most frequent codes (section 3.4)."""
        for level in levels:
            codes = self._codes[self._training, level]
            counts = np.bincount(codes, minlength=self._strategy.codebook)
            unused = np.flatnonzero(counts == 0)
            if not len(unused):
                continue
            norms = np.linalg.norm(self._books.vectors(params, level), axis=1)
            norm = norms[counts > 0].mean()
            states, documents = self._centred_states(params, level, len(unused))
            codes = codes[documents]
            counts = np.bincount(codes, minlength=self._strategy.codebook)
            random, moved = np.random.default_rng([self._seed, level]), {}
            for code in unused:
                frequent = int(np.argmax(counts))
                state = states[random.choice(np.flatnonzero(codes == frequent))]
                moved[int(code)] = norm * state / max(float(np.linalg.norm(state)), 1e-9)
                # The moved code takes about half of the documents, so the next one may go elsewhere.
                counts[frequent] = max(1, counts[frequent] // 2)
            params = self._books.with_vectors(params, level, moved)
        return params

    def _update_codes(self, params: Any, levels: Sequence[int]) -> None:
        """Set the codes of some levels to those that the network writes after the earlier codes."""
        codes, tokens = self._codes[self._training], self._tokens[self._training]
        written = np.asarray(predict_codes(params, tokens, codes, self._books, levels[0]))
        self._codes[self._training[:, None], np.array(levels)[None]] = written[:, list(levels)]

    def _record_usage(self, phase: str, levels: tuple[int, ...]) -> None:
        """Add the usage of the codebooks to the course of the training.

        Raises:
            CollapsedError: If a codebook has collapsed by the end of its last phase.
        """
        codes = self._codes[self._training]
        for level in levels:
            before, after = (prefix_ids(codes[:, :length]) for length in (level, level + 1))
            usage = describe_level(self._strategy.codebook, codes[:, level], before, after)
            self._course.append({"level": level + 1, "phase": phase, **usage})
            # Only documents that share their prefix need a code, so few of them need few codes.
            sharing = int((np.bincount(before)[before] > 1).sum())
            expected = _MIN_PERPLEXITY_SHARE * min(self._strategy.codebook, sharing)
            if phase == "fixed" and usage["perplexity"] < expected:
                raise CollapsedError(
                    f"the codebook of level {level + 1} has collapsed: {usage['used']} of {self._strategy.codebook} "
                    f"codes are used, with a perplexity of {usage['perplexity']:.1f}",
                    file=self._experiment.corpus,
                    expected=f"a perplexity of {expected:.1f} or more",
                    fix="set LearnedDocids.balanced = True, more .steps, or a smaller .codebook, in a new run folder",
                )
