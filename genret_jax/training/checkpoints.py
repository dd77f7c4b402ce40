"""The checkpoints of a run: written in the background, the last ones and the best kept, resumed from on any mesh."""

import contextlib
import dataclasses
import functools
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from genret_jax.errors import InputError
from genret_jax.parallel.coordination import from_first, gather
from genret_jax.training.checkpoint_format import (
    CHECKPOINTS_FOLDER,
    VERSION,
    DamagedError,
    checkpoint_steps,
    describe,
    describe_difference,
    explain_full_disk,
    load_items,
    make_metadata,
    read_metadata,
    verify_items,
)
from genret_jax.training.state import TrainState

DAMAGED_FOLDER = "damaged_checkpoints"
_TRAINING_FIELDS = ("step", "optimizer_state", "totals", "first_bad_step")
# Bytes of a file, for what carries no larger ones, in checkpoints of less than so many bytes.
_PART, _SMALL = 12 << 20, 1 << 30


class Checkpoints:
    """A context manager around Orbax's manager that waits for the last write when left.

    Args:
        folder: The run's folder.
        keep: Number of latest checkpoints kept, beside the best one.

    Attributes:
        latest: Step of the last checkpoint written or restored.
        best: ``{"step", "value"}`` of the best evaluation so far, set by the loop before it saves.
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

        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserve(self._is_kept), cleanup_tmp_directories=True
        )
        with explain_full_disk(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self._root, options=options)

    def _is_kept(self, steps: Sequence[int]) -> list[bool]:
        kept = {*sorted(steps)[-self._keep :], self.best["step"] if self.best else None}
        return [step in kept for step in steps]

    def __enter__(self) -> "Checkpoints":
        logging.getLogger("absl").addFilter(_is_news)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # an error on the way here tells more than a second one
                raise
        finally:
            if "_manager" in vars(self):
                with contextlib.suppress(Exception):  # wait() has raised it
                    self._manager.close()
            logging.getLogger("absl").removeFilter(_is_news)

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
        axes: Mapping[tuple[str, ...], Sequence[str | None]],
        fingerprint: Mapping[str, Any],
        metrics: Mapping[str, float | None],
    ) -> None:
        """Begin to write a checkpoint; the state may be donated as soon as this returns.

        Args:
            state: The state.
            axes: Logical axes by parameter path, so that parameters can be spread again without the model's code.
            fingerprint: What the run is made from, compared when it is resumed.
            metrics: Of the last evaluation.

        Raises:
            InputError: If the disk is full.
        """
        import orbax.checkpoint as ocp

        step, items = int(state.step), _to_items(state)
        metadata = make_metadata(
            items,
            step=step,
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
        """Return the last whole state with its metadata, or None where there is no checkpoint.

        A damaged checkpoint is put aside, with a warning, and the one before it is taken.

        Args:
            like: Shapes and shardings of the state.
            fingerprint: Must be that of the checkpoint.

        Raises:
            InputError: If the checkpoint is of another model or fingerprint, or all are damaged.
        """
        steps = from_first(lambda: checkpoint_steps(self._root))
        wanted = _to_items(like)
        for step in steps:
            try:
                items, metadata = self._read(step, wanted, fingerprint)
            except DamagedError as damage:
                self._put_aside(step, str(damage))
                continue
            self.latest, self.best = step, metadata["best"]
            return _to_state(items), metadata
        if steps:
            raise InputError(
                f"none of the {len(steps)} checkpoints can be read; they were moved here",
                file=self._damaged,
                fix="restore the folder from a copy, or run again to start from step 0",
            )
        return None

    def _read(
        self, step: int, wanted: Mapping[str, Any], fingerprint: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return items and metadata; raise DamagedError in all processes if one of them cannot read its part."""
        path, items, metadata, damage = self._root / str(step), {}, {}, None
        try:
            metadata = read_metadata(path)
            _check_belongs(path, metadata, wanted, fingerprint)
            items = load_items(path, wanted)
        except DamagedError as error:
            damage = str(error)
        if found := [reason for reason in gather(damage) if reason is not None]:
            raise DamagedError(found[0])
        verify_items(items, metadata)
        return items, metadata

    def _put_aside(self, step: int, reason: str) -> None:
        target = from_first(lambda: self._move_to_damaged(step))
        warnings.warn(
            f"checkpoint {step} is damaged ({reason}) and was moved to {target}; trying the one before it", stacklevel=3
        )

    def _move_to_damaged(self, step: int) -> str:
        self._damaged.mkdir(exist_ok=True)
        target = self._damaged / str(step)
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        os.rename(self._root / str(step), target)
        return str(target)


@dataclasses.dataclass(frozen=True)
class _Preserve:
    """Orbax's preservation policy from a function of the steps."""

    is_kept: Any

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell of each checkpoint, oldest first, whether it is kept."""
        kept: list[bool] = self.is_kept([checkpoint.step for checkpoint in checkpoints])
        return kept


def _is_news(record: logging.LogRecord) -> bool:
    # Orbax logs a traceback of everything that it raises anyway.
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
    if metadata["version"] != VERSION:
        raise InputError(f"a checkpoint of layout {metadata['version']}", file=path, expected=f"layout {VERSION}")
    for name, what in (("params", "model"), ("training", "optimizer or set of metrics"), ("average", "average_decay")):
        found_shapes, wanted_shapes = metadata["shapes"].get(name, {}), describe(wanted.get(name, {}))
        difference = describe_difference(found_shapes, wanted_shapes, found_in="checkpoint", wanted_in="this run")
        if difference:
            raise InputError(f"a checkpoint of another {what} ({difference})", file=path, fix=advice)
    found = metadata["fingerprint"]
    for key in sorted({*found, *fingerprint}):
        if found.get(key) != fingerprint.get(key):
            raise InputError(
                f"a checkpoint made with another {key} ({found.get(key)})",
                file=path,
                expected=str(fingerprint.get(key)),
                fix=advice,
            )
