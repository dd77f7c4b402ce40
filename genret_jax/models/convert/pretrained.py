"""Start a network from public weights, and make room in them for docid tokens."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.public_checkpoint import open_checkpoint

Params = dict[str, Any]
_EMBEDDING, _OUTPUT = ("token_embedder", "embedding"), ("decoder", "logits_dense", "kernel")


def load_into(params: Mapping[str, Any], config: T5Config, path: str | Path) -> Params:
    """Return freshly initialised parameters with everything replaced that a public checkpoint has.

    The network may have what the checkpoint has not: rows for docid tokens after those of text, a decoder vocabulary
    of its own, a row per docid node. New rows of a table keep their random directions, at the scale of the
    checkpoint's rows (:func:`extend_vocabulary` draws such rows); the checkpoint's own rows and everything else are
    taken as they are. A decoder vocabulary that does not begin with the text's gets nothing from it.

    Args:
        params: Random parameters of :class:`genret_jax.models.network.T5`.
        config: Their configuration.
        path: A checkpoint in a layout that :func:`~genret_jax.models.convert.public_checkpoint.open_checkpoint` reads.

    Raises:
        InputError: If the checkpoint cannot be read, or its network is another one than ``config``; all fields that
            differ are named.
    """
    checkpoint = open_checkpoint(path)
    _check_same_network(config, checkpoint.config, path)
    loaded = flatten_dict(checkpoint.load())
    result: Params = unflatten_dict(
        {keys: _fill(np.array(value, np.float32), loaded.get(keys)) for keys, value in flatten_dict(params).items()}
    )
    if config.head == "vocabulary" and config.decoder_vocab_size is not None:
        if config.decoder_vocab_size >= config.vocab_size:
            table = result["decoder_token_embedder"]["embedding"]
            result["decoder_token_embedder"]["embedding"] = _fill(table, loaded[_EMBEDDING])
        elif not config.tie_embeddings:
            result["decoder"]["logits_dense"]["kernel"] = np.array(params["decoder"]["logits_dense"]["kernel"])
    return result


def extend_vocabulary(params: Params, config: T5Config, rows: int, *, seed: int = 0) -> tuple[Params, T5Config]:
    """Return parameters with more rows in the vocabulary, for docid tokens; everything else stays as it is.

    New rows are normally distributed with mean 0 and the standard deviation of the table that they extend: drawn at
    another scale, they would win or lose against every text token from the first step on. The embedding and, where it
    is not tied, the output layer are extended.

    Args:
        params: Parameters under t5x's names; not changed.
        config: Their configuration.
        rows: Size of the vocabulary afterwards.
        seed: Of the new rows.

    Raises:
        InputError: If that is fewer rows than there are.
    """
    if rows < config.vocab_size:
        raise InputError(
            f"a vocabulary of {rows} rows", expected=f"at least the checkpoint's {config.vocab_size}", fix="take more"
        )
    generator = np.random.default_rng(seed)
    flat = flatten_dict(params)
    flat[_EMBEDDING] = _fill(generator.standard_normal((rows, config.d_model), np.float32), flat[_EMBEDDING])
    if not config.tie_embeddings:
        flat[_OUTPUT] = _fill(generator.standard_normal((config.d_model, rows), np.float32), flat[_OUTPUT])
    return unflatten_dict(flat), dataclasses.replace(config, vocab_size=rows)


def _check_same_network(config: T5Config, public: T5Config, path: str | Path) -> None:
    fields = [
        "d_model", "d_kv", "num_heads", "d_ff", "num_encoder_layers", "num_decoder_layers", "activations",
        "relative_attention_num_buckets", "relative_attention_max_distance", "encoder_final_norm",
    ]  # fmt: skip
    if config.head == "vocabulary":
        fields += ["tie_embeddings", "scale_decoder_outputs"]
    pairs = [(name, getattr(config, name), getattr(public, name)) for name in fields]
    different = [f"{name} {ours!r} instead of {theirs!r}" for name, ours, theirs in pairs if ours != theirs]
    if different:
        raise InputError(
            f"T5Config is another network than the checkpoint's: {', '.join(different)}",
            file=path,
            fix="use the file of this size in gin_configs/models, or bind these fields",
        )
    # Public tables are padded to a multiple of 128 rows; a vocabulary smaller than that is not the checkpoint's.
    if config.vocab_size <= public.vocab_size - 256:
        raise InputError(
            f"T5Config.vocab_size is {config.vocab_size}",
            file=path,
            expected=f"the checkpoint's vocabulary ({public.vocab_size} rows)",
            fix="use the checkpoint's own SentencePiece model (VocabularyConfig.kind = 'file')",
        )


def _fill(table: np.ndarray, loaded: np.ndarray | None) -> np.ndarray:
    """Return the table with ``loaded`` in its first rows and columns; what is new takes its scale."""
    if loaded is None:
        return table
    if table.shape == loaded.shape:
        return loaded
    both = tuple(slice(min(ours, theirs)) for ours, theirs in zip(table.shape, loaded.shape, strict=True))
    table = table * (loaded.std() / max(float(table.std()), 1e-9))
    table[both] = loaded[both]
    return table.astype(np.float32)
