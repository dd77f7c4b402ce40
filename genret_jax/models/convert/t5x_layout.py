"""How t5x writes T5 down: the parameters' names, their shapes, and the network that the shapes tell.

A t5x checkpoint has no description of its network beside it, so the configuration is read off the shapes. What no shape
shows, the published families (T5 1.0 and 1.1, mT5, ByT5) and t5x's own network leave no choice about.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.public_layout import require_public_network, tensor_paths, tensor_shape
from genret_jax.models.convert.stored_arrays import shape_difference

SENTENCEPIECE = "spiece.model"
# Where Adafactor and others keep the parameters: in a train state, in a pickled optimizer, in a plain item.
_ROOTS = (("optimizer", "target"), ("_optimizer", "target"), ("target",), ("params",))
_NOT_OF_THE_NETWORK = {"dropout_rate", "dtype", "remat", "lexical_dropout"}
_GATED, _PLAIN = ("gelu", "linear"), ("relu",)
# Matrices that every T5 has, and whose shapes tell its widths.
_LANDMARKS = (
    "token_embedder/embedding",
    "encoder/relpos_bias/rel_embedding",
    "encoder/layers_0/attention/query/kernel",
)


def param_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a T5 by its path: ``decoder/layers_0/mlp/wo/kernel``."""
    return {"/".join(keys): tensor_shape(config, name, flip) for name, (keys, flip) in tensor_paths(config).items()}


def parameters_within(tree: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Find the network's parameters in a saved tree.

    Returns:
        The keys that lead to them, and the part of the tree there: the tree itself where no name says so.
    """
    for root in _ROOTS:
        part: Any = tree
        for key in root:
            part = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part:
            return root, part
    return (), tree


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], *, file: str | Path | None = None) -> T5Config:
    """Return the configuration of a network by its parameters' shapes.

    A gated feed-forward layer is T5 1.1's, of ``gelu`` and ``linear``; another one is T5 1.0's, of ``relu``. An output
    layer of its own means that the decoder's output is not scaled, as in t5x's network.

    Args:
        shapes: By path.
        file: For error messages.

    Raises:
        InputError: If they are not those of a T5; names and shapes that differ are listed.
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
    hidden = shapes.get("encoder/layers_0/mlp/wi_0/kernel" if gated else "encoder/layers_0/mlp/wi/kernel", (0, 1))
    tied = "decoder/logits_dense/kernel" not in shapes
    config = T5Config(
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
    difference = shape_difference(shapes, param_shapes(config))
    if difference:
        raise InputError(
            f"not the parameters of a T5: {difference}", file=file, fix="choose a T5, T5 1.1, mT5 or ByT5 checkpoint"
        )
    return config


def _depth(shapes: Mapping[str, Any], stack: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(rf"{stack}/layers_(\d+)/", name))]
    return max(numbers, default=0) + 1


def require_told_by_shapes(config: T5Config) -> None:
    """Refuse a network that :func:`config_from_shapes` would take for another one.

    Raises:
        InputError: The message names the fields.
    """
    require_public_network(config)
    told = config_from_shapes(param_shapes(config))
    names = [field.name for field in dataclasses.fields(config) if field.name not in _NOT_OF_THE_NETWORK]
    pairs = [(name, getattr(config, name), getattr(told, name)) for name in names]
    different = [f"{name} {ours!r} instead of {theirs!r}" for name, ours, theirs in pairs if ours != theirs]
    if different:
        raise InputError(
            f"t5x's layout cannot express T5Config's {', '.join(different)}", fix="use --layout huggingface"
        )


def require_fitting(params: Mapping[str, Any], config: T5Config) -> None:
    """Refuse parameters that are not those of a configuration.

    Raises:
        InputError: Names and shapes that differ are listed.
    """
    shapes = {name: np.shape(value) for name, value in flatten_dict(params, sep="/").items()}
    difference = shape_difference(shapes, param_shapes(config))
    if difference:
        raise InputError(
            f"the parameters do not fit the configuration: {difference}", fix="give the run's own T5Config"
        )


def write_sentencepiece(folder: Path, model: bytes | None) -> None:
    """Write a SentencePiece model where Hugging Face has it, and the recipes of ``gin_configs/runs`` look for it."""
    if model is not None:
        (folder / SENTENCEPIECE).write_bytes(model)
