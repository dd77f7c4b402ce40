"""The checkpoints of a run: written in the background, the last few and the best kept, restored onto any mesh."""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from genret_jax.errors import InputError
from genret_jax.models.shapes import shape_difference
from genret_jax.orbax_reading import DamagedError, UnreadableError
from genret_jax.parallel.coordination import from_first, gather
from genret_jax.storage import explain_os_errors, list_folder
from genret_jax.training.checkpoint_format import (
    CHECKPOINTS_FOLDER,
    checkpoint_steps,
    describe,
    explain_full_disk,
    load_items,
    make_metadata,
    read_metadata,
    require_fingerprint,
    verify_items,
)
from genret_jax.training.step import TrainState

DAMAGED_FOLDER = "damaged_checkpoints"
_TRAINING_FIELDS = ("step", "optimizer_state", "totals", "first_bad_step")
# Checkpoints of less than _SMALL bytes are written as files of _PART bytes: some tools copy no larger ones.
_PART, _SMALL = 12 << 20, 1 << 30


class Checkpoints:
    """Orbax's checkpoint manager as a context manager that waits for the last write.

    Args:
        folder: The run's folder.
        keep: Number of latest checkpoints to keep, beside the best one.

    Attributes:
        latest: Step of the last checkpoint written or restored.
        best: ``{"step", "value"}`` of the best evaluation so far; the loop sets it before it saves.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int):
        self._root = (Path(folder) / CHECKPOINTS_FOLDER).resolve()
        self._damaged = Path(folder).resolve() / DAMAGED_FOLDER
        self._keep = keep
        self.latest: int | None = None
        self.best: dict[str, Any] | None = None

    @functools.cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(preservation_policy=self, cleanup_tmp_directories=True)
        with explain_full_disk(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self._root, options=options)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return for each checkpoint whether to keep it; Orbax asks this of its preservation policy."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._keep :], self.best["step"] if self.best else None}
        return [step in kept for step in steps]

    def __enter__(self) -> "Checkpoints":
        logging.getLogger("absl").addFilter(_is_not_a_repetition)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # otherwise the first error says more than this second one
                raise
        finally:
            if "_manager" in vars(self):
                with contextlib.suppress(Exception):  # wait() has raised it
                    self._manager.close()
            logging.getLogger("absl").removeFilter(_is_not_a_repetition)

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            InputError: If the disk is full.
        """
        if "_manager" in vars(self):
            with explain_full_disk(self._root):
                self._manager.wait_until_finished()

    def save(
        self,
        state: TrainState,
        *,
        steps: int,
        axes: Mapping[tuple[str, ...], Sequence[str | None]],
        fingerprint: Mapping[str, Any],
        metrics: Mapping[str, float | None],
    ) -> None:
        """Begin to write a checkpoint; the state may be donated as soon as this returns.

        Args:
            state: The state.
            steps: Length of the run, on which the learning rate depends.
            axes: Logical axes by parameter path, so that parameters can be spread again without the model's code.
            fingerprint: Identity of the run's corpus, docids and model, compared when the run is resumed.
            metrics: Results of the last evaluation.

        Raises:
            InputError: If the disk is full.
        """
        import orbax.checkpoint as ocp

        step, items = int(state.step), _to_items(state)
        metadata = make_metadata(
            items,
            step=step,
            steps=steps,
            best=self.best,
            metrics=dict(metrics),
            fingerprint=dict(fingerprint),
            axes={"/".join(path): list(names) for path, names in axes.items()},
        )
        small = sum(array.nbytes for array in jax.tree.leaves(items)) < _SMALL
        arguments = {
            name: ocp.args.PyTreeSave(item, ocdbt_target_data_file_size=_PART if small else None)
            for name, item in items.items()
        }
        with explain_full_disk(self._root):
            self._manager.save(step, args=ocp.args.Composite(**arguments, metadata=ocp.args.JsonSave(metadata)))
        self.latest = step

    def restore(self, like: TrainState, *, fingerprint: Mapping[str, Any]) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the last whole state with its metadata, or None for a new run.

        A checkpoint that is proven to be damaged is moved to ``damaged_checkpoints/``, with a warning, and the one
        before it is taken. Any other failure to read changes nothing.

        Args:
            like: Shapes and shardings of the state.
            fingerprint: Must be that of the checkpoint.

        Raises:
            InputError: If the checkpoint belongs to another model or fingerprint, cannot be read, or none is left
                beside damaged ones.
        """
        wanted = _to_items(like)
        for step in from_first(lambda: checkpoint_steps(self._root)):
            try:
                items, metadata = self._read(step, wanted, fingerprint)
            except DamagedError as damage:
                self._put_aside(step, str(damage))
                continue
            self.latest, self.best = step, metadata["best"]
            return _to_state(items), metadata
        if damaged := from_first(lambda: list_folder(self._damaged)):
            raise InputError(
                f"no checkpoint can be read, and {len(damaged)} damaged ones lie here",
                file=self._damaged,
                fix=f"copy a whole one to {self._root}, or remove this folder to start again from step 0",
            )
        return None

    def _read(
        self, step: int, wanted: Mapping[str, Any], fingerprint: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return items and metadata; fail in all processes if one of them cannot read its part."""
        path, items, metadata = self._root / str(step), dict[str, Any](), dict[str, Any]()
        failure: dict[str, Any] | None = None
        try:
            metadata = read_metadata(path)
            _check_belongs(path, metadata, wanted, fingerprint)
            items = load_items(path, wanted)
        except UnreadableError as error:
            failure = {"unreadable": error.fields()}
        except DamagedError as error:
            failure = {"damaged": str(error)}
        failures = {kind: told for each in gather(failure) for kind, told in (each or {}).items()}
        if "unreadable" in failures:
            raise UnreadableError(**failures["unreadable"])
        if failures:
            raise DamagedError(failures["damaged"])
        verify_items(items, metadata)
        return items, metadata

    def _put_aside(self, step: int, reason: str) -> None:
        target = from_first(lambda: self._move_to_damaged(step))
        warnings.warn(
            f"checkpoint {step} is damaged ({reason}) and was moved to {target}; trying the one before it", stacklevel=3
        )

    def _move_to_damaged(self, step: int) -> str:
        with explain_os_errors(self._damaged):
            self._damaged.mkdir(exist_ok=True)
            target = self._damaged / str(step)
            while target.exists():
                target = target.with_name(f"{target.name}-again")
            os.rename(self._root / str(step), target)
        return str(target)


def _is_not_a_repetition(record: logging.LogRecord) -> bool:
    # Orbax logs the traceback of every error that it raises as well.
    return not (record.exc_info and "orbax" in record.pathname)


def _to_items(state: TrainState) -> dict[str, Any]:
    items = {"params": state.params, "training": {name: getattr(state, name) for name in _TRAINING_FIELDS}}
    return items if state.average is None else {**items, "average": state.average}


def _to_state(items: Mapping[str, Any]) -> TrainState:
    return TrainState(params=items["params"], average=items.get("average"), **items["training"])


def _check_belongs(
    path: Path, metadata: Mapping[str, Any], wanted: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> None:
    advice = "use the configuration the run was started with, or another run folder"
    for name, what in (("params", "model"), ("training", "optimizer or set of metrics"), ("average", "average_decay")):
        difference = shape_difference(metadata["shapes"].get(name, {}), describe(wanted.get(name, {})))
        if difference:
            raise InputError(f"a checkpoint of another {what} ({difference})", file=path, fix=advice)
    require_fingerprint(path, metadata, fingerprint, {*metadata["fingerprint"], *fingerprint}, fix=advice)
