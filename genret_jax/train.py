"""Train a retriever: the one entry point that gin binds.

python -m genret_jax.train --gin_file=runs/dsi_atomic_from_scratch.gin --gin.CORPUS="'corpus'" --gin.RUN="'runs/1'"
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genret_jax.experiment import Experiment
from genret_jax.run import Run, node_tree, prepare, stderr


def train(*, run: str, experiment: Experiment) -> Run:
    """Prepare a run folder and train in it, or go on where it was stopped.

    Args:
        run: The run folder.
        experiment: Everything else.

    Returns:
        The run, trained.

    Raises:
        InputError: If the folder holds another experiment, or anything in it cannot be used.
    """
    from genret_jax import training
    from genret_jax.configuration import operative_config
    from genret_jax.data.sampler import Sampler
    from genret_jax.storage import atomic_file, folder_lock
    from genret_jax.training.retrieval_task import RetrievalTask

    with folder_lock(Path(run) / ".prepare", doing="preparing"):
        opened = prepare(experiment, run, log=stderr)
        with atomic_file(opened.folder / "config.gin") as handle:
            handle.write(operative_config())
    sampler = Sampler(opened.store, opened.sampler, seed=opened.seed, batch_size=experiment.trainer.batch_size)
    tree = node_tree(opened.encoded) if opened.model.head == "prefix" else None
    training.train(
        RetrievalTask(opened.model, sampler, tree),
        experiment.trainer,
        opened.folder,
        evaluators=_evaluators(opened),
        init_params=opened.start_params(),
        fingerprint=opened.fingerprints,
    )
    return opened


def _evaluators(run: Run) -> dict[str, Any]:
    """Return the searches made during training: validation queries, never the test."""
    import numpy as np

    from genret_jax.evaluation.metrics import evaluate
    from genret_jax.retriever import Retriever

    if not run.corpus.qrels.get("validation"):
        return {}
    wanted = run.evaluation
    ids, tokens = run.store.queries("validation", run.sampler.input_length, append_eos=run.sampler.append_eos)
    # Spread over the split, as its order may follow the documents.
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), wanted.validation_queries)).astype(int))
    ids, tokens = [ids[i] for i in chosen], tokens[chosen]
    qrels = {query: run.corpus.qrels["validation"][query] for query in ids}
    retriever = Retriever(run, {})

    def validate(params: Mapping[str, Any], step: int) -> dict[str, float]:
        ranked = retriever.with_params(params).rank(tokens, beam=wanted.validation_beam, batch_size=wanted.batch_size)
        found = {query: [(run.corpus.doc_ids[d], s) for d, s in ranked.of(row)] for row, query in enumerate(ids)}
        return evaluate(qrels, found, ks=(1, 10), beam=wanted.validation_beam)

    return {"validation": validate}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse gin files and bindings as t5x does, and call :func:`train`."""
    from genret_jax.cli import main as genret

    return genret(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
