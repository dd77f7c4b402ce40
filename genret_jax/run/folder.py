"""The folder of a run while it is made: whose it is, and which parts are there."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from genret_jax.errors import InputError
from genret_jax.run.base import IDENTITY, LEARNING, LOCK, QUANTISER, SEED_FOLDER
from genret_jax.storage import atomic_folder, read_json, write_json
from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_steps

Log = Callable[[str], None]


@contextlib.contextmanager
def new_or_untouched(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Remove what an :class:`InputError` in the block leaves of a run folder that was new.

    Docids that were learned, or part of the way to them, took long: with such the folder stays, to be gone on with.
    """
    folder = Path(folder)
    was_new = not _visible(folder)
    try:
        yield
    except InputError:
        if was_new and folder.is_dir() and not _has_learned(folder):
            for name in _visible(folder):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not set(os.listdir(folder)) - {LOCK}:
                shutil.rmtree(folder)
        raise


def _has_learned(folder: Path) -> bool:
    """Return whether docids, or part of the way to them, have been learned in a run folder or that of a seed in it."""
    return any(
        any((run / LEARNING).glob("learned_*"))
        or any(checkpoint_steps(phase / CHECKPOINTS_FOLDER) for phase in (run / LEARNING).glob("*"))
        or ((run / QUANTISER).is_dir() and read_json(run / IDENTITY).get("Experiment.docids") == "@LearnedDocids()")
        for run in (folder, *folder.glob(f"{SEED_FOLDER}*"))
    )


def _visible(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")] if folder.is_dir() else []


def claim(folder: Path, identity: Mapping[str, str]) -> None:
    """Make the folder this experiment's, and refuse one in which another, or something else, lives.

    Raises:
        InputError: If one does.
    """
    marker = folder / IDENTITY
    if not marker.is_file():
        if there := sorted(set(_visible(folder)) - {LOCK}):
            raise InputError(
                f"the folder is not empty and not a run (it has {there[0]!r})",
                file=folder,
                expected="a new folder, or one of an earlier 'genret train'",
                fix="choose another --run folder",
            )
        write_json(marker, dict(identity))
        return
    made_with = read_json(marker)
    different = [name for name in {**made_with, **identity} if made_with.get(name) != identity.get(name)]
    if different:
        name = different[0]
        what = "corpus" if name == "corpus" else f"{name} = {made_with.get(name, 'none')}"
        more = f" and {len(different) - 1} more differences" if len(different) > 1 else ""
        raise InputError(
            f"this run folder belongs to another {what}{more}",
            file=folder,
            expected=f"{identity.get(name, 'none')}, as this experiment has",
            fix="choose another --run folder, or give what this run was made with",
        )


def make(path: Path, write: Callable[[Path], object], like: Path | None = None) -> None:
    """Write a part unless it is there; a part that is there is whole, as every writer renames a finished folder.

    Args:
        path: The part.
        write: Writes it.
        like: Run folder whose part of that name is the same, and is copied if it has it.
    """
    if path.exists():
        return
    if like is not None and (like / path.name).is_dir():
        with atomic_folder(path) as partial:
            shutil.copytree(like / path.name, partial, dirs_exist_ok=True)
    else:
        write(path)
