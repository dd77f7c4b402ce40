"""The configuration that ``genret train`` takes where none is named: the run's own, or one that fits the corpus."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.gin_files import bindings_of, experiment_from_gin, recipe_file, require_set_once
from genret_jax.data.corpus import read_beir
from genret_jax.data.interactions import is_interactions
from genret_jax.data.splits import evenly_spread
from genret_jax.data.text.terms import terms_of
from genret_jax.errors import InputError
from genret_jax.models.encoders.getting import find_encoder
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.problems import say
from genret_jax.run.folder import RECORD, run_folders

ENCODER = "all-MiniLM-L6-v2"
FROM_ENCODER, FROM_SCRATCH, OF_ITEMS = "pretrained", "semantic", "tiger"

_BATCH, _ROUNDS = 64, 3  # queries of a step, and how often training goes through all of them
_LEAST_STEPS, _MOST_STEPS = 60, 6000
_CHECKS = 6  # validations and checkpoints of a run
_SAMPLE = 5000  # queries whose lengths are looked at
_LONGEST = 0.99  # share of the queries that must fit
_PIECES = 1.5  # of a vocabulary of the corpus, for a word
_USUAL_LENGTH = 64  # of queries, in tokens and in words, where none are there to be looked at
_POOL_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A recipe and what is set in it for a corpus.

    Attributes:
        recipe: Short name of a shipped recipe.
        settings: Gin name to value.
        why: One line for the person who trains.
    """

    recipe: str
    settings: Mapping[str, Any]
    why: str


def default_experiment(
    corpus: str | os.PathLike[str] | None,
    run: str | os.PathLike[str] | None,
    bindings: Sequence[str] = (),
    *,
    steps: int | None = None,
    seed: int | None = None,
    allow_imports: Sequence[str] = (),
) -> tuple[str, BaseExperiment]:
    """Return the run folder and the experiment where no recipe and no gin file is named.

    A run folder that has been begun goes on with its own configuration. A new one gets the one of :func:`choose`, which
    is printed with its reasons.

    Args:
        corpus: Folder with the data.
        run: The run folder.
        bindings: Gin lines that win over the choice.
        steps: Training steps; those of the choice when left out.
        seed: Seed of the run; that of the recipe when left out.
        allow_imports: Modules outside genret_jax that a record may import.

    Raises:
        InputError: If the corpus cannot be read, no folder is given, or a binding does not fit.
    """
    if (record := _record(run)) is not None:
        _, experiment = experiment_from_gin([os.fspath(record)], bindings, allow_imports=allow_imports)
        changed: dict[str, Any] = {
            name: value for name, value in {"steps": steps, "seed": seed}.items() if value is not None
        }
        trainer = dataclasses.replace(experiment.trainer, **changed)
        source = experiment.corpus if corpus is None else os.fspath(corpus)
        return os.fspath(run or ""), dataclasses.replace(experiment, corpus=source, trainer=trainer)
    folders = {"CORPUS": corpus, "RUN": run}
    given = {name: os.fspath(folder) for name, folder in folders.items() if folder is not None}
    bindings = [*bindings, *bindings_of({**given, "STEPS": steps, "SEED": seed})]
    require_set_once(bindings)
    if corpus is None or run is None:  # an error, unless bindings name them
        return experiment_from_gin([recipe_file(FROM_SCRATCH)], bindings, allow_imports=allow_imports)
    choice = choose(corpus)
    say(f"recipe      {choice.recipe}: {choice.why}")
    bindings = [*bindings_of(choice.settings), *bindings]
    return experiment_from_gin([recipe_file(choice.recipe)], bindings, allow_imports=allow_imports)


def choose(corpus: str | os.PathLike[str], encoder: str = ENCODER) -> Choice:
    """Choose a recipe for a corpus, and the settings that depend on its size, its queries and their lengths.

    A pretrained encoder is used where it has been downloaded. Nothing is read of queries but the training queries.

    Args:
        corpus: Folder of documents, or of items with histories.
        encoder: Name of the encoder, or its folder.

    Raises:
        InputError: If the corpus cannot be read.
    """
    if is_interactions(corpus):
        return Choice(recipe=OF_ITEMS, settings={}, why="the folder has items and users' histories")
    data, read = read_beir(corpus), _encoder(encoder)
    queries = [data.queries[query] for query in data.qrels.get("train", {})]
    tokens, words = _lengths(read, queries)
    settings: dict[str, Any] = {"STEPS": 0, "SamplerConfig.input_length": tokens, "PlanConfig.terms": words}
    if read is None:
        recipe, vectors = FROM_SCRATCH, "latent semantic analysis"
        settings["HierarchicalKMeans.branching"] = _codebook(len(data))
        why = (
            f"no pretrained encoder is here ('genret encoder get {encoder}' fetches one, with which a run finds more); "
        )
    else:
        recipe, vectors = FROM_ENCODER, encoder
        settings |= {"ENCODER": encoder, "ResidualKMeans.codebook": _codebook(len(data))}
        why = f"{encoder} is here; "
    if not queries:
        why += f"{len(data):,} documents without training queries are found untrained, by BM25 and {vectors}"
        return Choice(recipe=recipe, settings=settings, why=why)
    steps = int(np.clip(-(-_ROUNDS * len(queries) // _BATCH), _LEAST_STEPS, _MOST_STEPS))
    every = -(-steps // _CHECKS)
    settings |= {"STEPS": steps, "TrainerConfig.evaluate_every": every, "TrainerConfig.checkpoint_every": every}
    if read is not None and len(queries) * 2 * (tokens + 2) * read.width <= _POOL_BYTES:
        settings["Experiment.pool"] = steps * _BATCH
    why += (
        f"{len(data):,} documents, {len(queries):,} training queries, so {steps:,} steps on inputs of {tokens} tokens"
    )
    return Choice(recipe=recipe, settings=settings, why=why)


def _encoder(name: str) -> SentenceEncoder | None:
    """Return an encoder; None if it is not here."""
    try:
        folder = find_encoder(name)
    except InputError:
        return None
    return SentenceEncoder.load(folder)


def _lengths(encoder: SentenceEncoder | None, queries: Sequence[str]) -> tuple[int, int]:
    """Return the tokens and the terms that nearly all training queries fit in, in steps of 16.

    Args:
        encoder: The encoder whose tokens count; None if the vocabulary is made from the corpus later.
        queries: The training queries.
    """
    some = [queries[index] for index in evenly_spread(np.arange(len(queries)), _SAMPLE)]
    terms = _in_steps(np.quantile([len(terms_of(query)) for query in some], _LONGEST)) if some else _USUAL_LENGTH
    if encoder is None:
        return _in_steps(_PIECES * terms), terms
    around = len(encoder.form("query").first_tokens) + 1
    most = encoder.max_length - around
    tokens = np.quantile(np.sum(encoder.tokens(some) > 0, axis=1), _LONGEST) - around if some else float(_USUAL_LENGTH)
    return min(_in_steps(tokens), most), terms


def _in_steps(length: float) -> int:
    return max(32, 16 * int(np.ceil(length / 16)))


def _codebook(documents: int) -> int:
    """Return codes for each of two levels, so that a code divides what is below it as it divides the corpus."""
    return int(np.clip(2 ** np.ceil(np.log2(documents) / 2), 8, 1024))


def _record(run: str | os.PathLike[str] | None) -> Path | None:
    """Return the record of a run folder that has been begun, or of one of its seeds."""
    if run is None:
        return None
    records = [folder / RECORD for folder in run_folders(run)]
    return next((record for record in records if record.is_file()), None)
