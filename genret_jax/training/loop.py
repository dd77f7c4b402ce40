"""The training loop: from a task and a configuration to checkpoints in a folder, resumed wherever it was stopped."""

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from genret_jax.errors import InputError, nearest
from genret_jax.parallel.coordination import from_first, is_first
from genret_jax.parallel.mesh import on_each_process, placed_on
from genret_jax.storage import folder_lock
from genret_jax.training.batches import Prefetcher
from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_steps
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.log import MetricsLog, Progress
from genret_jax.training.start import Evaluator, SeedRun, Start, prepare
from genret_jax.training.step import NEVER, Params, TrainingTask, TrainState
from genret_jax.training.stopping import AgreedStop, Interruption


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of :func:`train`.

    Attributes:
        params: Parameters after the last step; the averaged ones if the run keeps an average.
        step: Updates made.
        metrics: Results of the last evaluation, ``"evaluator/metric"`` to value.
        best_step: Step of the best evaluation, None without ``best_metric``.
        interrupted: ``'SIGINT'`` or ``'SIGTERM'`` if that ended the run early, else None.
    """

    params: Params
    step: int
    metrics: Mapping[str, float | None]
    best_step: int | None
    interrupted: str | None

    def require_whole(self) -> None:
        """Raise KeyboardInterrupt if a signal ended the training early."""
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

    Resuming on the same devices with the same number of steps continues bit for bit as if the run had never stopped.
    With more steps it goes on by the learning rates of the longer run, and says so. SIGINT and SIGTERM end it after the
    steps in progress, with a checkpoint. If jax runs in several processes, all of them make the same call, with a
    folder that all see; process 0 writes what is written once, and evaluates.

    Args:
        task: Parameters, loss and batches.
        config: Settings of the run.
        folder: The run's folder; gets ``checkpoints/``, ``metrics.jsonl`` and ``tensorboard/``.
        evaluators: Functions of ``(params, step)`` by name; their metrics are logged as ``name/metric``. The arrays
            they get are gone after the next step: to keep some, copy them.
        init_params: Parameters to start from instead of the task's random ones.
        fingerprint: JSON values that identify the run's corpus, docids and model; a checkpoint with other values is
            refused.

    Returns:
        The final parameters and metrics.

    Raises:
        InputError: If the folder is in use, is removed during training, or belongs to another model; if its checkpoint
            has more steps than ``config.steps``; if the batch does not fit the devices, the loss is not finite, or the
            disk is full.
    """
    run = SeedRun(
        task=task,
        config=config,
        folder=folder,
        evaluators=evaluators or {},
        init_params=init_params,
        fingerprint=fingerprint or {},
    )
    return _train_together([run])[0]


def train_seeds(runs: Sequence[SeedRun], *, together: bool | None = None) -> list[TrainResult]:
    """Train runs that differ in their seed, side by side as one program on the same devices or one after the other.

    Each gets a folder with the files that :func:`train` would write there, and can be resumed by itself. Runs that
    have reached the same step are trained together, one such group after the other.

    Args:
        runs: Their tasks may differ in nothing but their batches, and their configurations in nothing but the seed.
        together: Train side by side. None does so on accelerators only: on two CPU cores three seeds of
            ``runs/tiger.gin`` take a quarter longer than one after the other.

    Returns:
        The result of each run; if a signal ended the training, groups that had not begun are left out.

    Raises:
        InputError: As :func:`train`; if there are several processes, or the runs differ in more than their seed.
    """
    _check_alike(runs)
    results: dict[int, TrainResult] = {}
    for group in _groups(runs, jax.default_backend() != "cpu" if together is None else together):
        of_group = [runs[number] for number in group]
        results.update(zip(group, _train_together(of_group, named=len(runs) > 1), strict=True))
        if results[group[0]].interrupted:
            break
    return [results[number] for number in sorted(results)]


def _groups(runs: Sequence[SeedRun], together: bool) -> list[list[int]]:
    """Return the numbers of the runs that train side by side, the group that has reached the highest step first."""
    if not together:
        return [[number] for number in range(len(runs))]
    reached = [max(checkpoint_steps(Path(run.folder) / CHECKPOINTS_FOLDER), default=0) for run in runs]
    return [
        [number for number, of_run in enumerate(reached) if of_run == step]
        for step in sorted(set(reached), reverse=True)
    ]


def _check_alike(runs: Sequence[SeedRun]) -> None:
    first = runs[0]
    if len(runs) > 1 and jax.process_count() > 1:
        raise InputError("several seeds in several processes", fix="train one seed in each run")
    for run in runs[1:]:
        if dataclasses.replace(run.config, seed=first.config.seed) != first.config:
            raise InputError("runs of different configurations", file=run.folder, expected=f"those of {first.folder}")
        if run.fingerprint != first.fingerprint:
            raise InputError(
                f"made from something else ({dict(run.fingerprint)})",
                file=run.folder,
                expected=f"{dict(first.fingerprint)}, as {first.folder}",
            )


def _train_together(runs: Sequence[SeedRun], *, named: bool = False) -> list[TrainResult]:
    config = runs[0].config
    with contextlib.ExitStack() as entered:
        held = [entered.enter_context(_held(run.folder)) for run in runs]
        # Dropout masks must not depend on how the arrays are spread over devices.
        entered.enter_context(jax.threefry_partitionable(True))
        interruption = entered.enter_context(Interruption())
        checkpoints = [entered.enter_context(Checkpoints(run.folder, keep=config.keep)) for run in runs]
        start = prepare(runs, checkpoints)
        logs = [
            entered.enter_context(MetricsLog(run.folder, step=start.step, tensorboard=config.tensorboard))
            if is_first()
            else None
            for run in runs
        ]
        progress = entered.enter_context(Progress(start=start.step, steps=config.steps, shown=is_first()))
        if named:
            progress.say(f"training {', '.join(os.fspath(run.folder) for run in runs)}")
        if start.step:
            progress.say(f"resuming after step {start.step}")
        if start.steps not in (None, config.steps):
            progress.say(
                f"the run was to end at step {start.steps} and now ends at step {config.steps}; from here on the "
                f"learning rate is that of a run of {config.steps} steps"
            )
        members = [_Member(*of_run, start) for of_run in zip(runs, held, checkpoints, logs, start.metrics, strict=True)]
        loop = _Loop(config, start, members, progress)
        loop.advance([run.task for run in runs], interruption)
        for saved, require_held in zip(checkpoints, held, strict=True):
            saved.wait()
            require_held()
        if loop.interrupted:
            progress.say(f"stopped by {loop.interrupted} after step {loop.step}; the same command goes on from there")
        return [
            TrainResult(
                params=part(loop.state.evaluated_params),
                step=loop.step,
                metrics=member.metrics,
                best_step=saved.best["step"] if saved.best else None,
                interrupted=loop.interrupted,
            )
            for part, member, saved in zip(loop.parts, members, checkpoints, strict=True)
        ]


@contextlib.contextmanager
def _held(folder: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """Lock a run's folder in process 0, and yield a function that raises InputError if the folder is gone."""
    if not is_first():
        yield lambda: None
        return
    with folder_lock(folder, doing="training") as require_held:
        try:
            yield require_held
        except Exception:
            require_held()  # without its folder, a run fails in many ways
            raise


class _Member:
    """One of the runs: its evaluations, records and checkpoints between two calls to the device."""

    def __init__(
        self,
        run: SeedRun,
        require_held: Callable[[], None],
        checkpoints: Checkpoints,
        log: MetricsLog | None,
        metrics: Mapping[str, float | None],
        start: Start,
    ):
        self._run, self._checkpoints, self._log, self._start = run, checkpoints, log, start
        self._require_held, self.metrics = require_held, dict(metrics)

    def check(self, report: Mapping[str, Any]) -> float:
        """Return the mean loss since the last record; raise InputError if a step was not finite."""
        bad_step = int(report["first_bad_step"])
        if bad_step != NEVER:
            self._stop_not_finite(f"the loss or its gradient is not finite at step {bad_step}")
        total, weight = jax.device_get(report["totals"]["loss"]).tolist()
        return float(total / (weight or 1.0))

    def _stop_not_finite(self, found: str) -> None:
        latest = self._checkpoints.latest
        kept = "no checkpoint was written" if latest is None else f"the last good checkpoint is that of step {latest}"
        raise InputError(
            f"{found}; {kept}",
            file=self._run.folder,
            fix="lower the learning rate (or TrainerConfig.clip_norm), and train in a new folder",
        )

    def record(self, step: int, report: Mapping[str, Any], rate: float) -> None:
        """Write the means since the last record, and the steps per second."""
        totals = {name: total.tolist() for name, total in jax.device_get(report["totals"]).items()}
        metrics = {name: total / weight if weight else None for name, (total, weight) in totals.items()}
        metrics["learning_rate"] = float(report["learning_rate"])
        metrics["steps_per_second"] = rate
        metrics["examples_per_second"] = rate * self._run.config.batch_size
        self._write(step, "train", metrics)

    def evaluate(self, params: Params, step: int) -> bool:
        """Run the evaluators; return whether the result is the best so far and worth a checkpoint."""
        # In process 0 alone: two processes might not agree on the last bit, and so on the best step.
        params = on_each_process(params) if self._run.evaluators else {}
        self.metrics = from_first(lambda: self._measure(params, step))
        if self.metrics:
            self._write(step, "evaluation", self.metrics)
        return self._is_best(step)

    def _write(self, step: int, kind: str, metrics: Mapping[str, float | None]) -> None:
        self._require_held()
        if self._log is not None:
            self._log.write(step, kind, metrics)

    def _measure(self, params: Params, step: int) -> dict[str, float | None]:
        return {
            f"{name}/{metric}": None if value is None else float(value)
            for name, evaluate in self._run.evaluators.items()
            for metric, value in evaluate(params, step).items()
        }

    def _is_best(self, step: int) -> bool:
        name = self._run.config.best_metric
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
        highest = self._run.config.best_mode == "max"
        if best is not None and (value <= best["value"] if highest else value >= best["value"]):
            return False
        self._checkpoints.best = {"step": step, "value": value}
        return True

    def save(self, state: TrainState, step: int) -> None:
        """Begin to write a checkpoint."""
        if not bool(_all_finite(state.params)):
            self._stop_not_finite(f"parameters are not finite after step {step}")
        self._require_held()
        if self._log is not None:
            self._log.sync()
        self._checkpoints.save(
            state,
            steps=self._run.config.steps,
            axes=self._start.axes,
            fingerprint=self._run.fingerprint,
            metrics=self.metrics,
        )


class _Loop:
    """The state of all runs, and the calls to the device."""

    def __init__(self, config: TrainerConfig, start: Start, members: Sequence[_Member], progress: Progress):
        self._config, self._start, self._members, self._progress = config, start, members, progress
        self._logged_step, self._logged_at = start.step, time.monotonic()
        #: For each run, a function that takes its part from the state or a report of all runs.
        self.parts: list[Callable[[Any], Any]] = [lambda tree: tree]
        if len(members) > 1:
            self.parts = [functools.partial(_of_run, number) for number in range(len(members))]
        self.state: TrainState = start.state
        self.step = start.step
        self.interrupted: str | None = None

    def advance(self, tasks: Sequence[TrainingTask], interruption: Interruption) -> None:
        """Make the remaining steps."""
        if self.step == 0:
            improved = self._config.evaluate_at_start and self._evaluate()
            if improved or not self._config.steps:
                self._save()  # training may find nothing better than the start
        in_flight: dict[str, Any] | None = None
        stop = AgreedStop(self._start.mesh)
        with Prefetcher(tasks, self._config, self._start.mesh, start=self.step) as dispatches:
            for dispatch in dispatches:
                with placed_on(self._start.mesh):
                    self.state, report = self._start.run_steps(
                        self.state, dispatch.batches, dispatch.count, self._start.arrays
                    )
                self.step = dispatch.end
                if in_flight is not None:  # the device works on the next call while this waits for the last one
                    self._check(in_flight)
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
            self._check(report)
            improved = self._evaluate()
        if last or improved or self.interrupted or _due(self.step, config.checkpoint_every):
            self._check(report)
            self._save()

    def _check(self, report: Mapping[str, Any]) -> None:
        losses = [member.check(part(report)) for part, member in self._each()]
        self._progress.update(int(report["step"].max()), sum(losses) / len(losses))

    def _record(self, report: Mapping[str, Any]) -> None:
        self._check(report)
        now = time.monotonic()
        rate = (self.step - self._logged_step) / max(1e-9, now - self._logged_at)
        for part, member in self._each():
            member.record(self.step, part(report), rate)
        self._logged_step, self._logged_at = self.step, now

    def _evaluate(self) -> bool:
        began = time.monotonic()
        params = self.state.evaluated_params
        improved = [member.evaluate(part(params), self.step) for part, member in self._each()]
        self._show_metrics()
        self._logged_at += time.monotonic() - began
        return any(improved)

    def _show_metrics(self) -> None:
        """Print the metric that chooses the best checkpoint, or all metrics if none does, for each run."""
        found, chosen = [member.metrics for member in self._members], self._config.best_metric
        values = {name: _values(found, name) for name in found[0] if chosen in (None, name)}
        shown: dict[str, list[str]] = {}
        for name, value in values.items():
            hits = name.replace("/recall@", "/hits@")
            if name == hits or value != values.get(hits):  # the same where queries have one relevant document
                evaluator, _, metric = name.partition("/")
                shown.setdefault(evaluator, []).append(f"{metric} {value}")
        for evaluator, metrics in shown.items():
            self._progress.say(f"step {self.step}/{self._config.steps}  {evaluator}  {'  '.join(metrics)}")

    def _save(self) -> None:
        began = time.monotonic()
        for part, member in self._each():
            member.save(part(self.state), self.step)
        self._logged_at += time.monotonic() - began

    def _each(self) -> Iterable[tuple[Callable[[Any], Any], _Member]]:
        return zip(self.parts, self._members, strict=True)


def _values(metrics: Sequence[Mapping[str, float | None]], name: str) -> str:
    values = [found[name] for found in metrics]
    return ", ".join("none" if value is None else f"{value:.4f}" for value in values)


@functools.partial(jax.jit, static_argnums=0)
def _of_run(number: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[number], tree)


@jax.jit
def _all_finite(tree: Any) -> Any:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
