"""Training on a mesh of devices: ``train(task, TrainerConfig(...), folder)``, and ``restore_params(folder)``."""

from genret_jax.parallel.mesh import make_mesh
from genret_jax.training.checkpoint_format import restore_params
from genret_jax.training.config import (
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    InverseSquareRoot,
    LinearWarmupLinearDecay,
    TrainerConfig,
)
from genret_jax.training.log import read_metrics
from genret_jax.training.loop import TrainResult, train, train_seeds
from genret_jax.training.start import SeedRun
from genret_jax.training.step import TrainingTask

__all__ = [
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "InverseSquareRoot",
    "LinearWarmupLinearDecay",
    "SeedRun",
    "TrainResult",
    "TrainerConfig",
    "TrainingTask",
    "make_mesh",
    "read_metrics",
    "restore_params",
    "train",
    "train_seeds",
]
