"""Run folders: prepared, trained, evaluated and opened."""

from genret_jax.run.evaluate import evaluate_runs
from genret_jax.run.folder import open_run, prepare, run_folders
from genret_jax.run.training import prepare_only, train, train_run, train_seeds

__all__ = [
    "evaluate_runs",
    "open_run",
    "prepare",
    "prepare_only",
    "run_folders",
    "train",
    "train_run",
    "train_seeds",
]
