"""What training does with a run: the task that it trains, and the searches that validate it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genret_jax.config.experiment import AnyExperiment
from genret_jax.data.examples.history_examples import EvenSampler, HistoryExamples, PackedHistories
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.splits import evenly_spread
from genret_jax.evaluation.metrics import evaluate
from genret_jax.models.heads import NodeTree
from genret_jax.retriever import Retriever
from genret_jax.run import Run, node_tree
from genret_jax.run.documents import DocumentRun
from genret_jax.run.items import ItemRun
from genret_jax.training import TrainingTask
from genret_jax.training.history_task import HistoryTask, PackedHistoryTask
from genret_jax.training.retrieval_task import RetrievalTask

VALIDATION_KS = (1, 10)


def task_of(run: Run, experiment: AnyExperiment) -> TrainingTask:
    """Return what is trained of a run.

    Documents and items that come later are not yet in the tree, or training would learn that they never come.
    """
    batch_size = experiment.trainer.batch_size
    if isinstance(run, DocumentRun):
        tree = node_tree(run.encoded, ~run.later) if run.model.head == "prefix" else None
        sampler = Sampler(run.store, run.sampler, seed=run.seed, batch_size=batch_size)
        return RetrievalTask(run.model, sampler, tree, **experiment.losses)
    assert isinstance(run, ItemRun)
    tree = node_tree(run.encoded, ~run.cold) if run.model.head == "prefix" else None
    return _item_task(run, batch_size, tree, **experiment.losses)


def _item_task(run: ItemRun, batch_size: int, tree: NodeTree | None, **losses: float) -> TrainingTask:
    histories, examples = run.histories, None
    if histories.causal:
        packed = PackedHistories.of(run.interactions, histories.items, cold=run.cold)
    else:
        examples = HistoryExamples.of(run.interactions, histories, cold=run.cold)
    common: dict[str, Any] = {
        "config": run.model,
        "sampler": EvenSampler(len(examples or packed), seed=run.seed, batch_size=batch_size),
        "item_inputs": run.item_inputs,
        "item_tokens": run.item_tokens,
        "item_nodes": run.item_nodes,
        "tree": tree,
        **losses,
    }
    if examples is None:
        return PackedHistoryTask(packed, **common)
    users = run.user_tokens(run.interactions.user_ids)
    return HistoryTask(examples, users, histories.user_drop, **common)


def evaluators_of(run: Run) -> dict[str, Callable[[Mapping[str, Any], int], Mapping[str, float]]]:
    """Return the searches made during training: validation queries, never the test; none where there are none."""
    found = _queries(run) if isinstance(run, DocumentRun) else _histories(run)
    if found is None:
        return {}
    tokens, qrels, widths = found
    wanted, ids = run.evaluation, list(qrels)
    retriever = Retriever(run, {})

    def validate(params: Mapping[str, Any], step: int) -> dict[str, float]:
        nonlocal retriever  # on a mesh, with the docid index put there once
        retriever = retriever.with_params(params)
        ranked = retriever.rank(tokens, beam=wanted.validation_beam, batch_size=wanted.batch_size, widths=widths)
        rankings = {query: [(run.corpus.doc_ids[d], s) for d, s in ranked.of(row)] for row, query in enumerate(ids)}
        return evaluate(qrels, rankings, ks=VALIDATION_KS, beam=wanted.validation_beam)

    return {"validation": validate}


_Validation = tuple[np.ndarray, dict[str, Mapping[str, int]], Sequence[int]]


def _queries(run: DocumentRun) -> _Validation | None:
    if run.sampler.writes_queries or not run.corpus.qrels.get("validation"):
        return None
    ids, tokens = run.store.queries("validation", run.sampler.input_length, append_eos=run.sampler.append_eos)
    # Spread over the split, as its order may follow the documents.
    chosen = evenly_spread(np.arange(len(ids)), run.evaluation.validation_queries)
    return tokens[chosen], {ids[i]: run.corpus.qrels["validation"][ids[i]] for i in chosen}, ()


def _histories(run: Run) -> _Validation:
    assert isinstance(run, ItemRun)
    data = run.interactions
    users, targets = data.evaluated_ids, data.item[data.targets("validation")]
    # Those that training was not shown are no reason to prefer a checkpoint.
    warm = np.flatnonzero(~run.cold[targets])
    chosen = evenly_spread(warm, run.evaluation.validation_queries)
    names = [users[row] for row in chosen]
    tokens = run.encode_histories(data.histories("validation", run.histories.items)[chosen], names)
    qrels: dict[str, Mapping[str, int]] = {
        name: {data.items.doc_ids[item]: 1} for name, item in zip(names, targets[chosen].tolist(), strict=True)
    }
    return tokens, qrels, run.input_widths
