r"""DSI's training mixture on any example store: ``dsi_indexing``, ``dsi_retrieval``, and the mixture ``dsi``.

The environment variable ``GENRET_EXAMPLES`` names the folder of a store from ``genret examples build``. With it, the
import of this module registers the tasks::

    GENRET_EXAMPLES=/data/nq/examples python -m t5x.train --gin.MIXTURE_OR_TASK_MODULE='"genret_jax.tasks.dsi"' \
        --gin.MIXTURE_OR_TASK_NAME='"dsi"' ...

With ``GENRET_STEPS`` the tasks end after that number of steps of 128 examples, and seqio's Beam job can cache them::

    GENRET_EXAMPLES=/data/nq/examples GENRET_STEPS=10000 seqio_cache_tasks --module_import=genret_jax.tasks.dsi \
        --tasks=dsi_indexing,dsi_retrieval --output_cache_dir=/data/nq/cached

In a gin file or in Python, :func:`mixture` does this for a given folder and configuration; :func:`task_name` returns
the name of a task, for configurations that hold names.
"""

import os
from typing import Any

from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.seqio.tasks import PlannedTask, fact_lengths, register_tasks
from genret_jax.data.seqio.vocabulary import import_seqio
from genret_jax.errors import InputError

# Tay et al. 2022, arXiv 2202.06991: the first 32 tokens of a document, indexing and retrieval examples 32:1.
DSI = SamplerConfig(
    indexing_rate=32.0,
    pseudo_query_rate=0.0,
    retrieval_rate=1.0,
    draw="query",
    input_length=32,
    append_eos=True,
    word_drop=0.0,
    query_word_drop=0.0,
    resegmentation=0.0,
)


def mixture(
    examples: str, *, name: str = "dsi", config: SamplerConfig = DSI, seed: int = 0, steps: int | None = None
) -> Any:
    """Register the tasks of an example store and return their mixture.

    Args:
        examples: Folder of the example store.
        name: Name of the mixture, prefix of its tasks.
        config: Rates, representation, objective and noise of the examples.
        seed: Seed of all random choices.
        steps: Training steps of 128 examples in each task, for caching; by default endless.
    """
    seqio, _ = import_seqio()
    return seqio.MixtureRegistry.get(register_tasks(examples, name, config, seed=seed, steps=steps).mixture)


def task_name(
    examples: str,
    *,
    task: str | None = None,
    name: str = "dsi",
    config: SamplerConfig = DSI,
    seed: int = 0,
    batch_size: int = 128,
    planned: PlannedTask | None = None,
) -> str:
    """Register the tasks of an example store and return the name of one, which t5x uses in file names.

    Args:
        examples: Folder of the example store.
        task: ``"indexing"``, ``"pseudo_queries"`` or ``"retrieval"``; None for the mixture of all.
        name: Name of the mixture, prefix of its tasks.
        config: Rates, representation, objective and noise of the examples.
        seed: Seed of all random choices.
        batch_size: Rows of a training step, by which examples are numbered.
        planned: Gives the examples the features that the loss of a plan reads; None without a plan.

    Raises:
        InputError: If there is no such task, or its rate is 0.
    """
    registered = register_tasks(examples, name, config, seed=seed, batch_size=batch_size, planned=planned)
    wanted = name if task is None else f"{name}_{task}"
    if task is not None and wanted not in registered.tasks:
        raise InputError(
            f"no task '{task}'",
            expected=f"one of {', '.join(known.removeprefix(f'{name}_') for known in registered.tasks)}",
            fix="change it, or give it a rate above 0 in SamplerConfig",
        )
    return wanted


def feature_lengths(
    examples: str, *, config: SamplerConfig = DSI, planned: PlannedTask | None = None
) -> dict[str, int]:
    """Return the lengths of the features at which no example is cut.

    Args:
        examples: Folder of the example store.
        config: Rates, representation, objective and noise of the examples.
        planned: As of :func:`task_name`.
    """
    sampler = Sampler(ExampleStore.open(examples), config, seed=0, batch_size=1)
    lengths = {"inputs": config.input_length + config.terms, "targets": sampler.decoder_length}
    return lengths | fact_lengths(planned, config.terms)


if os.environ.get("GENRET_EXAMPLES"):
    mixture(os.environ["GENRET_EXAMPLES"], steps=int(os.environ.get("GENRET_STEPS", 0)) or None)
