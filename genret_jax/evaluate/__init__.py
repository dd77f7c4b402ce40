"""Measure trained runs beside what a user would pick instead."""

from genret_jax.evaluate.documents import Baselines
from genret_jax.evaluate.runs import evaluate_runs

__all__ = ["Baselines", "evaluate_runs"]
