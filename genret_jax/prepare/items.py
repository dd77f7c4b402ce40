"""From a recommendation experiment to a run folder that is ready to be trained."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genret_jax.config.experiment import Recommendation, needs_vectors
from genret_jax.data.examples.histories import cold_items
from genret_jax.data.interactions import EMBEDDINGS, Interactions, read_interactions, write_interactions
from genret_jax.data.item_vectors import start_vectors, vectors_of_items
from genret_jax.data.vectors import LsaVectors
from genret_jax.docids import DocidCodec, DocidTable, LearnedDocids, LshDocids, QuantisedDocids, Quantiser
from genret_jax.errors import InputError
from genret_jax.evaluation.environment import environment
from genret_jax.models.config import ItemInput, T5Config, divisible
from genret_jax.prepare.documents import room
from genret_jax.run import ITEMS, QUANTISER, SETTINGS, START_VECTORS, VERSION, Run, as_json
from genret_jax.run.folder import Log, claim, make
from genret_jax.storage import save_arrays, write_json


def prepare_items(experiment: Recommendation, folder: Path, log: Log, like: Path | None) -> Run:
    """Make a run folder of items ready to be trained; see :func:`genret_jax.prepare.prepare`."""
    interactions = read_interactions(experiment.corpus)
    claim(folder, {"corpus": interactions.fingerprint, **experiment.identity()})
    make(folder / "corpus", lambda path: write_interactions(interactions, path), like)
    log(
        f"items       {len(interactions.items):,} items, {interactions.num_users:,} users, "
        f"{len(interactions.item):,} interactions"
    )
    vectors = functools.cache(lambda: _vectors(experiment, interactions, log))
    _make_docids(experiment, interactions, folder, vectors, like)
    table = DocidTable.load(folder / "docids")
    log(f"docids      {table.strategy.get('name', '')}: {table.num_nodes:,} nodes, at most {table.lengths.max()} codes")
    if experiment.start is not None:
        make(folder / START_VECTORS, lambda path: _save_start(experiment, interactions, vectors(), path))
    codec = DocidCodec(first_token=2, level_sizes=room(experiment.docids, table))
    encoded = codec.encode(table)
    settings = {
        "version": VERSION,
        "kind": ITEMS,
        "corpus": interactions.name,
        "seed": experiment.seed,
        "codec": codec.to_json(),
        "model": as_json(sized_model(experiment, codec, encoded.tree.num_nodes, encoded.tokens.shape[1])),
        "histories": as_json(experiment.histories),
        "start": as_json(experiment.start),
        "cold_items": experiment.cold_items,
        "evaluation": as_json(experiment.evaluation),
        "fingerprints": {"corpus": interactions.fingerprint, "docids": table.fingerprint},
        "environment": environment(),
    }
    write_json(folder / SETTINGS, settings)
    return Run.open(folder)


def _make_docids(
    experiment: Recommendation,
    interactions: Interactions,
    folder: Path,
    vectors: Callable[[], np.ndarray],
    like: Path | None,
) -> None:
    """Make docids and, where it was fitted to vectors, what gives later items theirs."""
    items, strategy, seed = interactions.items, experiment.docids, experiment.docid_seed
    if isinstance(strategy, str):
        table = DocidTable.load(strategy)
        table.require_corpus(items.fingerprint, file=strategy)
        make(folder / "docids", table.save)
        return
    assert not isinstance(strategy, LearnedDocids)  # the experiment refuses it
    _require_enough_items(experiment, len(items))
    if not isinstance(strategy, QuantisedDocids):
        of_items = vectors() if needs_vectors(strategy) else None
        make(
            folder / "docids",
            lambda path: strategy.assign(items.doc_ids, of_items, seed, items.fingerprint).save(path),
            like,
        )
        return

    @functools.cache
    def fitted() -> tuple[Quantiser, DocidTable]:
        new = cold_items(len(items), experiment.cold_items)
        return strategy.fit_and_assign(items.doc_ids, vectors(), seed, items.fingerprint, unseen=new)

    make(folder / QUANTISER, lambda path: fitted()[0].save(path), like)
    make(folder / "docids", lambda path: fitted()[1].save(path), like)


def _require_enough_items(experiment: Recommendation, items: int) -> None:
    strategy = experiment.docids
    codebook, fitting = getattr(strategy, "codebook", 0), max(2, items // 8)
    if items < codebook:
        setting, value = f"{type(strategy).__name__}.codebook", fitting
        if isinstance(strategy, LshDocids):
            setting, value = "LshDocids.hyperplanes", fitting.bit_length() - 1
        raise InputError(
            f"{items:,} items for codebooks of {codebook:,}",
            file=experiment.corpus,
            expected="at least as many items as codes, or each has a code of its own, which says nothing",
            fix=f"set {setting} to {value} or so: --gin.{setting}={value}",
        )


def _save_start(experiment: Recommendation, interactions: Interactions, content: np.ndarray, path: Path) -> None:
    cold = cold_items(len(interactions.items), experiment.cold_items)
    items = start_vectors(interactions, content, experiment.model.d_model, seed=experiment.seed, cold=cold)
    save_arrays(path, {"items": items}, kind=START_VECTORS, version=VERSION)


def _vectors(experiment: Recommendation, interactions: Interactions, log: Log) -> np.ndarray:
    items, source = interactions.items, experiment.vectors or vectors_of_items(experiment.corpus, log)
    if isinstance(source, LsaVectors) and not any(items.titles) and not any(items.texts):
        raise InputError(
            f"items without texts, and no {EMBEDDINGS} beside them, to make vectors of",
            file=experiment.corpus,
            expected="either, as these docids or this start of the network are made of vectors",
            fix="give one of them; or do without: --gin_file ablations/ids_random.gin --gin.Recommendation.start=None",
        )
    return source.vectors(items)


def sized_model(experiment: Recommendation, codec: DocidCodec, num_nodes: int, docid_length: int) -> T5Config:
    """Return the experiment's network with what the items decide filled in.

    The encoder reads codes and, behind them, users; with T5's head the decoder shares its table.

    Args:
        experiment: The choices.
        codec: How the items' codes become tokens.
        num_nodes: Nodes of the docid tree.
        docid_length: Tokens of the longest docid.

    Raises:
        InputError: If an adaptive decoder would have no prefix to read.
    """
    experiment.model.require_prefixes(len(codec.level_sizes))
    histories = experiment.histories
    items = ItemInput(
        leading=int(histories.user_tokens > 0),
        length=docid_length,
        count=histories.items,
        causal=histories.causal,
        whole=histories.whole_items,
    )
    model = dataclasses.replace(
        experiment.model,
        vocab_size=divisible(codec.vocab_size + histories.user_tokens),
        item_input=items if histories.positions == "items" else None,
    )
    if model.head == "prefix" or histories.whole_items:
        model = dataclasses.replace(model, num_nodes=divisible(num_nodes))
    if model.head == "prefix":
        model = dataclasses.replace(model, decoder_vocab_size=divisible(codec.vocab_size))
    return model
