"""Read the encoder of a T5 in the layout of Hugging Face transformers, with or without its decoder beside it."""

from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.huggingface import find_tensors, params_of_tensors
from genret_jax.models.convert.public_layout import config_from_json, tensor_paths, tensor_shape
from genret_jax.models.shapes import shape_difference
from genret_jax.storage import read_json


def read_t5_encoder(folder: str | Path) -> tuple[T5Config, dict[str, Any]]:
    """Read an encoder.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``, saved from transformers' ``T5EncoderModel`` or
            from a whole T5.

    Returns:
        The configuration of the T5, and the parameters of its encoder and of the token embedding.

    Raises:
        InputError: If files are missing or damaged, it is of another family, or tensors do not fit ``config.json``.
    """
    folder = Path(folder)
    file, stored = folder / "config.json", find_tensors(folder)
    described = read_json(file, expect=dict)
    config = config_from_json(described, tie_embeddings=True, file=file)
    if (pad := described.get("pad_token_id", 0)) != 0:
        raise InputError(f"pad_token_id {pad!r}", file=file, expected="0, as in T5", fix="give another encoder")
    names = [name for name in tensor_paths(config) if not name.startswith("decoder.")]
    shapes = {name: shape for name, shape in stored.shapes.items() if not name.startswith(("decoder.", "lm_head."))}
    if difference := shape_difference(shapes, {name: tensor_shape(config, name) for name in names}):
        raise InputError(
            f"the tensors do not fit config.json: {difference}",
            file=folder,
            fix="use the config.json that belongs to these weights",
        )
    return config, params_of_tensors(stored, config, names)
