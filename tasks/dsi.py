r"""DSI's training mixture on any example store: ``dsi_indexing``, ``dsi_retrieval``, and the mixture ``dsi``.

Importing this module with ``GENRET_EXAMPLES`` set to a folder written by ``genret examples build`` registers them::

    GENRET_EXAMPLES=/data/nq/examples python -m t5x.train --gin.MIXTURE_OR_TASK_MODULE='"genret_jax.tasks.dsi"' \
        --gin.MIXTURE_OR_TASK_NAME='"dsi"' ...

In a gin file, or Python, :func:`mixture` does so for a given folder and configuration.
"""

import os
from typing import Any

from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.seqio_tasks import register_tasks
from genret_jax.data.seqio_vocabulary import import_seqio

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


def mixture(examples: str, *, name: str = "dsi", config: SamplerConfig = DSI, seed: int = 0) -> Any:
    """Register the tasks of an example store and return their mixture.

    Args:
        examples: Folder of the example store.
        name: Name of the mixture, prefix of its tasks.
        config: What the examples are.
        seed: Seed of all random choices.
    """
    seqio, _ = import_seqio()
    return seqio.MixtureRegistry.get(register_tasks(examples, name, config, seed=seed).mixture)


if os.environ.get("GENRET_EXAMPLES"):
    mixture(os.environ["GENRET_EXAMPLES"])
