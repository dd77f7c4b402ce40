"""Read and write public T5, T5 1.1, mT5 and ByT5 checkpoints in any supported layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flax.traverse_util import unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert import huggingface, t5x_legacy, t5x_orbax
from genret_jax.models.convert.stored_arrays import StoredArrays
from genret_jax.models.convert.t5x_layout import config_from_shapes, latest_checkpoint

Layout = Literal["huggingface", "t5x"]

_LAYOUTS = (
    "a folder with config.json and model.safetensors (Hugging Face), or t5x's checkpoint_STEP or the folder around it"
)
# Other public layouts, which this package does not read, with the next step for each.
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
    """A checkpoint whose network is known and whose arrays have not been read yet.

    Attributes:
        stored: Names, shapes and types of the arrays.
        config: Configuration of the network.
        load: Reads the parameters and returns them as float32 numpy arrays with t5x's names.
    """

    stored: StoredArrays
    config: T5Config
    load: Callable[[], dict[str, Any]]


def open_checkpoint(path: str | Path) -> PublicCheckpoint:
    """Open a checkpoint in any public layout.

    Args:
        path: The checkpoint's folder, or its main file.

    Raises:
        InputError: If there is no checkpoint, files are missing or damaged, or the network is not a T5. The message
            lists the names and shapes that differ.
    """
    return interpret(find_arrays(path))


def interpret(stored: StoredArrays) -> PublicCheckpoint:
    """Determine the T5 network that a checkpoint's arrays belong to.

    Raises:
        InputError: If the arrays are not those of a T5.
    """
    if stored.layout == huggingface.LAYOUT:
        config = huggingface.config_of_tensors(stored)
        return PublicCheckpoint(stored, config, lambda: huggingface.params_of_tensors(stored, config))
    config = config_from_shapes(stored.shapes, file=stored.path)
    read_all = lambda: unflatten_dict({name: array.read() for name, array in stored.arrays.items()}, sep="/")  # noqa: E731
    return PublicCheckpoint(stored, config, read_all)


def find_arrays(path: str | Path) -> StoredArrays:
    """Return the arrays of a checkpoint in any public layout, of any network.

    Raises:
        InputError: If there is no checkpoint, or files are missing or damaged.
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
    if (latest := latest_checkpoint(path)) is not None:
        return find_arrays(latest)
    for pattern, (what, fix) in _OTHERS.items():
        if any(path.glob(pattern)):
            raise InputError(f"{what}, which this package does not read", file=path, expected=_LAYOUTS, fix=fix)
    if (path / "config.json").is_file():
        return huggingface.find_tensors(path)  # raises an error that names the missing file
    raise InputError("no checkpoint here", file=path, expected=_LAYOUTS, fix="check the path")


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
        folder: Folder to create; it must not exist.
        params: Parameters with t5x's names.
        config: Configuration of the parameters.
        layout: ``"huggingface"`` for transformers, or ``"t5x"`` for t5x and its descendants.
        step: Training steps of the parameters; only t5x's layout records them.
        sentencepiece: Content of the SentencePiece model, written beside the weights as ``spiece.model``.

    Raises:
        InputError: If the layout cannot express the network (the message names the field), or the parameters do not
            fit it.
    """
    if layout == "huggingface":
        huggingface.save_safetensors(folder, params, config, sentencepiece=sentencepiece)
    else:
        t5x_legacy.save_t5x(folder, params, config, step=step, sentencepiece=sentencepiece)
