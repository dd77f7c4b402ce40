"""The training loop: from a task and a configuration to checkpoints in a folder, resumed wherever it was stopped."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genret_jax.errors import InputError, nearest
from genret_jax.processes.coordination import from_first, is_first
from genret_jax.storage import folder_lock
from genret_jax.training.agreed_stop import AgreedStop
from genret_jax.training.batches import Prefetcher
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.interruption import Interruption
from genret_jax.training.mesh import on_each_process, placed_on
from genret_jax.training.metrics_log import MetricsLog, SilentLog
from genret_jax.training.progress import Progress
from genret_jax.training.start import Start, prepare
from genret_jax.training.state import NEVER, TrainState
from genret_jax.training.task import Params, TrainingTask

Evaluator = Callable[[Params, int], Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a call of :func:`train` leaves.

    Attributes:
        params: Parameters after the last step; the averaged ones if the run keeps an average.
        step: Updates made.
        metrics: Of the last evaluation, ``"evaluator/metric"`` to value.
        best_step: Step of the best evaluation, None without ``best_metric``.
        interrupted: ``'SIGINT'`` or ``'SIGTERM'`` if that ended the run early, else None.
    """

    params: Params
    step: int
    metrics: Mapping[str, float | None]
    best_step: int | None
    interrupted: str | None

    def require_whole(self) -> None:
        """Do not go on with what a run has come to that was ended early.

        Raises:
            KeyboardInterrupt: If it was.
        """
        if self.interrupted:
            raise KeyboardInterrupt


def train(
    task: TrainingTask,
    config: TrainerConfig,
    folder: str | os.PathLike[str],
    *,
    evaluators: Mapping[str, Evaluator] | None = None,
    init_params: Params | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train until ``config.steps``, from the last checkpoint in the folder if it has one.

    Resuming on the same devices continues bit for bit as if the run had never stopped. SIGINT and SIGTERM end it
    after the steps in progress, with a checkpoint. Where jax runs in several processes, all of them call this alike,
    with a folder that all see; process 0 writes what is written once, and evaluates.

    Args:
        task: Parameters, loss and batches.
        config: Everything else.
        folder: The run's folder; gets ``checkpoints/``, ``metrics.jsonl`` and ``tensorboard/``.
        evaluators: Functions of ``(params, step)`` by name; their metrics are logged as ``name/metric``. The arrays
            they get are gone after the next step: to keep some, copy them.
        init_params: Parameters to start from instead of the task's random ones.
        fingerprint: JSON values that say what the run is made from (corpus, docids, model); a checkpoint with others
            is refused.

    Returns:
        The final parameters and metrics.

    Raises:
        InputError: If the folder is in use or of another model, the batch does not fit the devices, the loss is not
            finite, or the disk is full.
    """
    fingerprint = fingerprint or {}
    with (
        folder_lock(folder, doing="training") if is_first() else contextlib.nullcontext(),
        # Masks must not depend on how the arrays are spread over devices.
        jax.threefry_partitionable(True),
        Interruption() as interruption,
        Checkpoints(folder, keep=config.keep) as checkpoints,
    ):
        start = prepare(task, config, checkpoints, init_params=init_params, fingerprint=fingerprint)
        with (
            _log(folder, start.step, config) as log,
            Progress(start=start.step, steps=config.steps, shown=is_first()) as progress,
        ):
            if start.step:
                progress.say(f"resuming after step {start.step}")
            run = _Run(config, start, evaluators or {}, fingerprint, checkpoints, log, progress)
            run.advance(task, interruption)
        if run.interrupted:
            checkpoints.wait()
            progress.say(f"stopped by {run.interrupted} after step {run.step}; the same command goes on from there")
    return TrainResult(
        params=run.state.evaluated_params,
        step=run.step,
        metrics=run.metrics,
        best_step=checkpoints.best["step"] if checkpoints.best else None,
        interrupted=run.interrupted,
    )


def _log(folder: str | os.PathLike[str], step: int, config: TrainerConfig) -> MetricsLog | SilentLog:
    return MetricsLog(folder, step=step, tensorboard=config.tensorboard) if is_first() else SilentLog()


class _Run:
    """The state of the loop, and what happens between two calls to the device."""

    def __init__(
        self,
        config: TrainerConfig,
        start: Start,
        evaluators: Mapping[str, Evaluator],
        fingerprint: Mapping[str, Any],
        checkpoints: Checkpoints,
        log: MetricsLog | SilentLog,
        progress: Progress,
    ):
        self._config, self._start, self._evaluators, self._fingerprint = config, start, evaluators, fingerprint
        self._checkpoints, self._log, self._progress = checkpoints, log, progress
        self._logged_step, self._logged_at = start.step, time.monotonic()
        self.state: TrainState = start.state
        self.step = start.step
        self.metrics = dict(start.metrics)
        self.interrupted: str | None = None

    def advance(self, task: TrainingTask, interruption: Interruption) -> None:
        """Make the remaining steps."""
        if self.step == 0 and self._config.evaluate_at_start:
            self._evaluate()
        in_flight: dict[str, Any] | None = None
        stop = AgreedStop(self._start.mesh)
        with Prefetcher(task, self._config, self._start.mesh, start=self.step) as dispatches:
            for dispatch in dispatches:
                with placed_on(self._start.mesh):
                    self.state, report = self._start.run_steps(self.state, dispatch.batches, dispatch.count)
                self.step = dispatch.end
                if in_flight is not None:  # the device always has the next call while this waits for the last one
                    self._look_at(in_flight)
                in_flight = report
                asked_to_stop = stop.agreed(interruption.signal_name)
                self.interrupted = asked_to_stop if self.step < self._config.steps else None
                self._between_steps(report)
                if self.interrupted:
                    return

    def _between_steps(self, report: Mapping[str, Any]) -> None:
        config, last = self._config, self.step == self._config.steps
        if self.step % config.log_every == 0 or last:
            self._record(report)
        improved = False
        if last or _due(self.step, config.evaluate_every):
            self._look_at(report)
            improved = self._evaluate()
        if last or improved or self.interrupted or _due(self.step, config.checkpoint_every):
            self._look_at(report)
            self._save()

    def _look_at(self, report: Mapping[str, Any]) -> None:
        bad_step = int(report["first_bad_step"])
        if bad_step != NEVER:
            self._stop_not_finite(f"the loss or its gradient is not finite at step {bad_step}")
        total, weight = jax.device_get(report["totals"]["loss"]).tolist()
        self._progress.update(int(report["step"]), total / (weight or 1.0))

    def _stop_not_finite(self, found: str) -> None:
        latest = self._checkpoints.latest
        kept = "no checkpoint was written" if latest is None else f"the last good checkpoint is that of step {latest}"
        raise InputError(
            f"{found}; {kept}",
            fix="lower the learning rate (or TrainerConfig.clip_norm) and run again"
            + ("" if latest is None else " to resume from it"),
        )

    def _record(self, report: Mapping[str, Any]) -> None:
        self._look_at(report)
        totals = {name: total.tolist() for name, total in jax.device_get(report["totals"]).items()}
        now = time.monotonic()
        rate = (self.step - self._logged_step) / max(1e-9, now - self._logged_at)
        metrics = {name: total / weight if weight else None for name, (total, weight) in totals.items()}
        metrics["learning_rate"] = float(report["learning_rate"])
        metrics["steps_per_second"] = rate
        metrics["examples_per_second"] = rate * self._config.batch_size
        self._log.write(self.step, "train", metrics)
        self._logged_step, self._logged_at = self.step, now

    def _evaluate(self) -> bool:
        """Run the evaluators; return whether the result is the best so far and worth a checkpoint."""
        began = time.monotonic()
        # In one process for all, as the devices of two might not agree on the last bit, and so on the best step.
        params = on_each_process(self.state.evaluated_params) if self._evaluators else {}
        self.metrics = from_first(lambda: self._measure(params))
        if self.metrics:
            self._log.write(self.step, "evaluation", self.metrics)
        self._logged_at += time.monotonic() - began
        return self.step > 0 and self._is_best()

    def _measure(self, params: Params) -> dict[str, float | None]:
        return {
            f"{name}/{metric}": None if value is None else float(value)
            for name, evaluate in self._evaluators.items()
            for metric, value in evaluate(params, self.step).items()
        }

    def _is_best(self) -> bool:
        name = self._config.best_metric
        if name is None:
            return False
        if name not in self.metrics:
            raise InputError(
                f"TrainerConfig.best_metric is '{name}', which no evaluator gives; {nearest(name, self.metrics)}",
                expected=f"one of {', '.join(self.metrics) or 'none, as there are no evaluators'}",
                fix="change TrainerConfig.best_metric",
            )
        value, best = self.metrics[name], self._checkpoints.best
        if value is None or not math.isfinite(value):
            return False
        if best is not None and (value <= best["value"] if self._config.best_mode == "max" else value >= best["value"]):
            return False
        self._checkpoints.best = {"step": self.step, "value": value}
        return True

    def _save(self) -> None:
        if not bool(_all_finite(self.state.params)):
            self._stop_not_finite(f"parameters are not finite after step {self.step}")
        self._log.sync()
        began = time.monotonic()
        self._checkpoints.save(self.state, axes=self._start.axes, fingerprint=self._fingerprint, metrics=self.metrics)
        self._logged_at += time.monotonic() - began


@jax.jit
def _all_finite(tree: Any) -> Any:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
