"""The layout of T5 in t5x: the parameters' names and shapes, and how to infer the network from them.

A t5x checkpoint does not describe its network, so the configuration is inferred from the shapes. For the choices that
no shape shows, the published families (T5 1.0, T5 1.1, mT5, ByT5) and t5x's own network allow one value only.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.public_layout import config_of_file, require_public_network, tensor_paths, tensor_shape
from genret_jax.models.shapes import named_shapes, shape_difference
from genret_jax.storage import list_folder

SENTENCEPIECE = "spiece.model"
# Keys that lead to the parameters: in a train state, in a pickled optimizer, in a plain item.
_ROOTS = (("optimizer", "target"), ("_optimizer", "target"), ("target",), ("params",))
_TRAINING_ONLY = {"dropout_rate", "dtype", "remat"}
_GATED, _PLAIN = ("gelu", "linear"), ("relu",)
# Matrices that every T5 has; their shapes give its widths.
_LANDMARKS = (
    "token_embedder/embedding",
    "encoder/relpos_bias/rel_embedding",
    "encoder/layers_0/attention/query/kernel",
)


def param_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a T5, by paths such as ``decoder/layers_0/mlp/wo/kernel``."""
    return {"/".join(keys): tensor_shape(config, name, flip) for name, (keys, flip) in tensor_paths(config).items()}


def parameters_within(tree: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Find the network's parameters in a saved tree.

    Returns:
        The keys that lead to the parameters and the subtree there; no keys and the whole tree if no known key leads on.
    """
    for root in _ROOTS:
        part: Any = tree
        for key in root:
            part = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part:
            return root, part
    return (), tree


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the last ``checkpoint_STEP`` of a model directory; None if it has none."""
    steps = [int(match[1]) for name in list_folder(folder) if (match := re.fullmatch(r"checkpoint_(\d+)", name))]
    return folder / f"checkpoint_{max(steps)}" if steps else None


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], *, file: str | Path | None = None) -> T5Config:
    """Infer a network's configuration from the shapes of its parameters.

    A gated feed-forward layer is taken for that of T5 1.1 (``gelu`` and ``linear``), any other for that of T5 1.0
    (``relu``). The decoder's output is scaled if there is no separate output layer, as in t5x's network.

    Args:
        shapes: Shape of each parameter, by path.
        file: The checkpoint, for error messages.

    Raises:
        InputError: If the shapes are not those of a T5; the message lists names and shapes that differ.
    """
    absent = [name for name in _LANDMARKS if len(shapes.get(name, ())) != 2]
    if absent:
        some = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:3]) or "no array at all"
        raise InputError(
            f"not a T5: no matrix {absent[0]} among {len(shapes)} arrays ({some})",
            file=file,
            expected="the parameter names of t5x's T5, with a folder for each layer",
            fix="choose a T5, T5 1.1, mT5 or ByT5 checkpoint",
        )
    (vocab_size, d_model), (heads, buckets), (_, joined) = (shapes[name] for name in _LANDMARKS)
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    hidden = shapes.get(f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel", (0, 1))
    tied = "decoder/logits_dense/kernel" not in shapes
    config = config_of_file(
        file,
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=max(1, joined // heads),
        num_heads=heads,
        d_ff=hidden[-1],
        num_encoder_layers=_depth(shapes, "encoder"),
        num_decoder_layers=_depth(shapes, "decoder"),
        activations=_GATED if gated else _PLAIN,
        relative_attention_num_buckets=buckets,
        tie_embeddings=tied,
        scale_decoder_outputs=tied,
    )
    if difference := shape_difference(shapes, param_shapes(config)):
        raise InputError(
            f"not the parameters of a T5: {difference}", file=file, fix="choose a T5, T5 1.1, mT5 or ByT5 checkpoint"
        )
    return config


def _depth(shapes: Mapping[str, Any], stack: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(rf"{stack}/layers_(\d+)/", name))]
    return max(numbers, default=0) + 1


def require_inferable(config: T5Config) -> None:
    """Refuse a network that :func:`config_from_shapes` would mistake for another one.

    Raises:
        InputError: If it would; the message names the fields.
    """
    require_public_network(config)
    different = different_fields(
        config,
        config_from_shapes(param_shapes(config)),
        [field.name for field in dataclasses.fields(config) if field.name not in _TRAINING_ONLY],
    )
    if different:
        raise InputError(
            f"t5x's layout cannot express {different}",
            expected="values that the shapes of the parameters determine",
            fix="write the layout 'huggingface' instead",
        )


def different_fields(config: T5Config, other: T5Config, names: Sequence[str]) -> str:
    """Return the fields in which two configurations differ, with both values, as text; empty if there are none."""
    pairs = [(name, getattr(config, name), getattr(other, name)) for name in names]
    return ", ".join(
        f"T5Config.{name} {ours!r} instead of {theirs!r}" for name, ours, theirs in pairs if ours != theirs
    )


def require_fitting(params: Mapping[str, Any], config: T5Config) -> None:
    """Refuse parameters that do not belong to a configuration.

    Raises:
        InputError: If they do not; the message lists names and shapes that differ.
    """
    if difference := shape_difference(named_shapes(params), param_shapes(config)):
        raise InputError(
            f"the parameters do not fit the configuration: {difference}",
            fix="pass the T5Config with which the parameters were made",
        )


def write_sentencepiece(folder: Path, model: bytes | None) -> None:
    """Write a SentencePiece model into a checkpoint's folder, under the name that Hugging Face gives it."""
    if model is not None:
        (folder / SENTENCEPIECE).write_bytes(model)
