"""Encoders of the BERT family in the layout of Hugging Face transformers: ``config.json`` and safetensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.convert.huggingface import find_tensors
from genret_jax.models.convert.stored_arrays import StoredArray
from genret_jax.models.encoders.config import BertConfig
from genret_jax.storage import read_json

Params = dict[str, Any]

_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "dropout_rate": "hidden_dropout_prob",
}
_TABLES = {
    "embeddings.word_embeddings": "token_embedder",
    "embeddings.position_embeddings": "position_embedder",
    "embeddings.token_type_embeddings": "type_embedder",
    "encoder.relative_attention_bias": "relative_bias",
}
_NORMS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "mlp_norm"}
_MAPS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "intermediate.dense": "wi",
    "output.dense": "wo",
}
# MPNet's names of the same parts.
_MPNET = {"attention.LayerNorm": "attention.output.LayerNorm", "attention.attn.o": "attention.output.dense"} | {
    f"attention.attn.{part[0]}": f"attention.self.{part}" for part in ("query", "key", "value")
}
_TOKENS = ("token_embedder", "embedding")
_UNUSED = re.compile(r"pooler\.|cls\.|lm_head\.|.*position_ids$")


def read_bert(folder: str | Path) -> tuple[BertConfig, Params, int]:
    """Read an encoder.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.

    Returns:
        Its configuration, its parameters, and the token that pads in the folder's tokenizer. Here 0 pads, so this row
        and row 0 of the token embedding are exchanged. :meth:`SentenceEncoder.tokens` exchanges them in texts.

    Raises:
        InputError: If files are missing or damaged, it is of another family, or tensors do not fit ``config.json``.
    """
    folder = Path(folder)
    config, pad = _config(folder)
    tensors = {_renamed(name): array for name, array in find_tensors(folder).arrays.items()}
    wanted, flat = _wanted(config), {}
    for name, (keys, shape) in wanted.items():
        value = _read(tensors, name, shape, folder)
        flat[keys] = np.ascontiguousarray(value.T) if keys[-1] == "kernel" else value
    flat[_TOKENS] = _exchanged(flat[_TOKENS], pad)
    if more := sorted(name for name in tensors if name not in wanted and not _UNUSED.match(name)):
        raise InputError(
            f"{len(more)} tensors that config.json does not have, such as {more[0]}",
            file=folder,
            expected="a BERT or MPNet encoder",
            fix="use the config.json that belongs to these weights",
        )
    return config, unflatten_dict(flat), pad


def bert_tensors(folder: str | Path, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of an encoder's folder with other values.

    Args:
        folder: The folder that :func:`read_bert` read.
        params: Parameters of the encoder, with our names.

    Returns:
        The parameters in float32, by the folder's own names. Tensors that the encoder does not use, such as those of
        BERT's pooler, are the folder's.

    Raises:
        InputError: If files are missing or damaged.
    """
    folder = Path(folder)
    config, pad = _config(folder)
    wanted, flat, found = _wanted(config), flatten_dict(params), dict[str, np.ndarray]()
    for name, stored in find_tensors(folder).arrays.items():
        if (renamed := _renamed(name)) not in wanted:
            found[name] = stored.read()
            continue
        keys = wanted[renamed][0]
        value = np.asarray(flat[keys], np.float32)
        value = _exchanged(value, pad) if keys == _TOKENS else value
        found[name] = np.ascontiguousarray(value.T) if keys[-1] == "kernel" else value
    return found


def _exchanged(table: np.ndarray, pad: int) -> np.ndarray:
    """Return a token embedding with the rows of token 0 and of the folder's padding exchanged."""
    order = np.arange(len(table))
    order[[0, pad]] = pad, 0
    return table[order]


def _config(folder: Path) -> tuple[BertConfig, int]:
    file = folder / "config.json"
    stored = read_json(file, expect=dict)
    kind = stored.get("model_type")
    if kind not in ("bert", "mpnet"):
        raise InputError(
            f"model_type {kind!r}", file=file, expected="'bert', 'mpnet' or 't5'", fix="give another encoder"
        )
    if (positions := stored.get("position_embedding_type", "absolute")) != "absolute":
        raise InputError(f"position_embedding_type {positions!r}", file=file, expected="'absolute'")
    for theirs in _FIELDS.values():
        if theirs not in stored:
            raise InputError(f"{theirs} is missing", file=file, fix="download the folder again")
    fields = {ours: stored[theirs] for ours, theirs in _FIELDS.items()}
    pad, rows = stored.get("pad_token_id", 0 if kind == "bert" else 1), fields["vocab_size"]
    if not isinstance(pad, int) or not isinstance(rows, int) or not 0 <= pad < rows:
        raise InputError(f"pad_token_id {pad!r}", file=file, expected=f"a token below vocab_size {rows!r}")
    if kind == "mpnet":
        fields |= {"first_position": pad + 1, "token_types": 0}
        fields["relative_buckets"] = stored.get("relative_attention_num_buckets", 32)
    else:
        fields["token_types"] = stored.get("type_vocab_size", 2)
    try:
        return BertConfig(**fields), pad
    except InputError as error:
        raise InputError(error.found, file=file, expected=error.expected, fix="download the folder again") from None


def _renamed(name: str) -> str:
    """Return BERT's name of a tensor without the name of the model that holds the encoder."""
    name = re.sub(r"^(bert|mpnet|model|0\.auto_model)\.", "", name)
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))  # of early files
    layer = re.match(r"(encoder\.layer\.\d+\.)(.+)\.(weight|bias)$", name)
    return f"{layer[1]}{_MPNET.get(layer[2], layer[2])}.{layer[3]}" if layer else name


def _wanted(config: BertConfig) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return name -> (our path, stored shape) of every tensor; maps are stored as [out, in]."""
    d, found = config.d_model, dict[str, tuple[tuple[str, ...], tuple[int, ...]]]()
    shapes = {
        "token_embedder": (config.vocab_size, d),
        "position_embedder": (config.positions, d),
        "type_embedder": (config.token_types, d),
        "relative_bias": (config.relative_buckets, config.num_heads),
    }
    for theirs, ours in _TABLES.items():
        if shapes[ours][0]:
            found[f"{theirs}.weight"] = ((ours, "embedding"), shapes[ours])
    norms: dict[str, tuple[str, ...]] = {"embeddings.LayerNorm": ("embedding_norm",)}
    for number in range(config.num_layers):
        prefix, layer = f"encoder.layer.{number}.", f"layers_{number}"
        norms |= {prefix + theirs: (layer, ours) for theirs, ours in _NORMS.items()}
        for theirs, ours in _MAPS.items():
            out, into = config.d_ff if ours == "wi" else d, config.d_ff if ours == "wo" else d
            found[f"{prefix}{theirs}.weight"] = ((layer, ours, "map", "kernel"), (out, into))
            found[f"{prefix}{theirs}.bias"] = ((layer, ours, "bias"), (out,))
    for theirs, path in norms.items():
        found |= {f"{theirs}.weight": ((*path, "scale"), (d,)), f"{theirs}.bias": ((*path, "bias"), (d,))}
    return found


def _read(tensors: Mapping[str, StoredArray], name: str, shape: tuple[int, ...], folder: Path) -> np.ndarray:
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != shape:
        raise InputError(
            f"the tensor {name} {'is missing' if tensor is None else f'has shape {list(tensor.shape)}'}",
            file=folder,
            expected=f"shape {list(shape)}, as config.json says",
            fix="use the config.json that belongs to these weights",
        )
    return tensor.read()
