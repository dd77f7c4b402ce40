"""Public T5, T5 1.1, mT5 and ByT5 checkpoints, whichever layout they are in."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flax.traverse_util import unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert import huggingface, t5x_legacy, t5x_orbax
from genret_jax.models.convert.stored_arrays import StoredArrays
from genret_jax.models.convert.t5x_layout import config_from_shapes

Layout = Literal["huggingface", "t5x"]

_LAYOUTS = (
    "a folder with config.json and model.safetensors (Hugging Face), or t5x's checkpoint_STEP or the folder around it"
)
# Layouts that are public too, and that this package leaves to those who wrote them.
_OTHERS = {
    "pytorch_model*.bin*": (
        "PyTorch's pickled weights",
        "convert them where torch is installed: "
        "transformers.T5ForConditionalGeneration.from_pretrained(FOLDER).save_pretrained(OUT)",
    ),
    "model.ckpt-*": ("a TensorFlow checkpoint of Mesh TensorFlow", "download the same model as t5x publishes it"),
    "*.h5": ("Keras weights", "download model.safetensors too"),
    "flax_model*.msgpack": ("Flax weights of an older transformers", "download model.safetensors too"),
}


@dataclass(frozen=True)
class PublicCheckpoint:
    """A checkpoint whose network is known and whose arrays are still on the disk.

    Attributes:
        stored: Names, shapes and types of its arrays.
        config: The network.
        load: Reads the parameters, as float32 numpy arrays under t5x's names.
    """

    stored: StoredArrays
    config: T5Config
    load: Callable[[], dict[str, Any]]


def open_checkpoint(path: str | Path) -> PublicCheckpoint:
    """Open a checkpoint in any public layout.

    Args:
        path: The folder, or the file that stands for it.

    Raises:
        InputError: If there is none, its files are missing or damaged, or it is not a T5; names and shapes that differ
            are listed.
    """
    return interpret(find_arrays(path))


def interpret(stored: StoredArrays) -> PublicCheckpoint:
    """Find out which T5 a checkpoint's arrays are.

    Raises:
        InputError: If they are none.
    """
    if stored.layout == huggingface.LAYOUT:
        config = huggingface.config_of_tensors(stored)
        return PublicCheckpoint(stored, config, lambda: huggingface.params_of_tensors(stored, config))
    config = config_from_shapes(stored.shapes, file=stored.path)
    return PublicCheckpoint(stored, config, lambda: _read_all(stored))


def find_arrays(path: str | Path) -> StoredArrays:
    """Return the arrays of a checkpoint in any public layout, whatever network they are of.

    Raises:
        InputError: If there is none, or its files are missing or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file or folder", file=path, expected=_LAYOUTS, fix="check the path")
    if path.suffix == ".safetensors" or path.name.endswith(".index.json") or any(path.glob("model*.safetensors*")):
        return huggingface.find_tensors(path)
    if (file := t5x_legacy.find_tree_file(path)) is not None:
        return t5x_legacy.find_legacy_arrays(file)
    if (item := t5x_orbax.find_item(path)) is not None:
        return t5x_orbax.find_orbax_arrays(item)
    if (latest := _latest_of(path)) is not None:
        return find_arrays(latest)
    for pattern, (what, fix) in _OTHERS.items():
        if any(path.glob(pattern)):
            raise InputError(f"{what}, which this package does not read", file=path, expected=_LAYOUTS, fix=fix)
    if (path / "config.json").is_file():
        return huggingface.find_tensors(path)  # says which file is missing
    raise InputError("no checkpoint here", file=path, expected=_LAYOUTS, fix="check the path")


def _latest_of(path: Path) -> Path | None:
    """Return the last checkpoint of t5x's model directory."""
    steps = [int(match[1]) for each in path.iterdir() if (match := re.fullmatch(r"checkpoint_(\d+)", each.name))]
    return path / f"checkpoint_{max(steps)}" if steps else None


def _read_all(stored: StoredArrays) -> dict[str, Any]:
    params: dict[str, Any] = unflatten_dict({name: array.read() for name, array in stored.arrays.items()}, sep="/")
    return params


def save_checkpoint(
    folder: str | Path,
    params: Mapping[str, Any],
    config: T5Config,
    layout: Layout,
    *,
    step: int = 0,
    sentencepiece: bytes | None = None,
) -> None:
    """Write parameters in a public layout.

    Args:
        folder: Destination; must not exist.
        params: Parameters under t5x's names.
        config: Their configuration.
        layout: ``"huggingface"``, for transformers, or ``"t5x"``, for t5x and its descendants.
        step: Updates they have had; only t5x's layout says so.
        sentencepiece: The vocabulary's model, written beside them as ``spiece.model``.

    Raises:
        InputError: If the layout cannot express the network (the field is named), or the parameters do not fit it.
    """
    if layout == "huggingface":
        huggingface.save_safetensors(folder, params, config, sentencepiece=sentencepiece)
    else:
        t5x_legacy.save_t5x(folder, params, config, step=step, sentencepiece=sentencepiece)
