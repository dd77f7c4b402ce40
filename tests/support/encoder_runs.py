"""Tiny experiments that begin with a pretrained encoder."""

import dataclasses
from pathlib import Path
from typing import Any

from genret_jax.config.experiment import Experiment
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docids import ResidualKMeans
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoder_start import EncoderStart
from support.encoder_folders import ENCODERS
from support.tiny_run import tiny_experiment

DOCIDS = ResidualKMeans(levels=3, codebook=4)
FROZEN = (("encoder", 0.0),)
MODEL = {"encoder_final_norm": True, "num_nodes": 0}


def encoder_experiment(
    corpus: Path | str,
    *,
    plan: PlanConfig | None = None,
    layers: int = 0,
    start: EncoderStart | None = None,
    encoder: str = "bert",
    rates: tuple[tuple[str, float], ...] = FROZEN,
    steps: int = 4,
    model: dict[str, Any] | None = None,
    **fields: Any,
) -> Experiment:
    """Return an experiment on the tiny corpus that begins with a tiny encoder.

    Args:
        corpus: Folder of the corpus.
        plan: The network's plan.
        layers: Layers of its decoder.
        start: Start of the network; by default an :class:`EncoderStart`.
        encoder: Name of a folder in ``tests/golden/encoders``.
        rates: Learning rates by parameter (``TrainerConfig.learning_rates``).
        steps: Training steps.
        model: Further fields of the network.
        **fields: Further fields of the experiment.
    """
    given = tiny_experiment(corpus, docids=DOCIDS, start=None)
    shape = {"head": "vocabulary", "num_decoder_layers": layers, "plan": plan, "dropout_rate": 0.0, **(model or {})}
    changed = {
        "model": dataclasses.replace(given.model, **MODEL | shape),
        "encoder": str(ENCODERS / encoder),
        "vectors": None,
        "vocabulary": None,
        "trainer": dataclasses.replace(given.trainer, learning_rates=rates, steps=steps, checkpoint_every=2),
        "start": start or EncoderStart(),
        "sampler": SamplerConfig(input_length=12),
    }
    return dataclasses.replace(given, **changed, **fields)
