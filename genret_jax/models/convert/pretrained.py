"""Start a network from public weights, and add rows for docid tokens to them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.public_checkpoint import open_checkpoint
from genret_jax.models.convert.t5x_layout import different_fields

Params = dict[str, Any]
_EMBEDDING, _OUTPUT = ("token_embedder", "embedding"), ("decoder", "logits_dense", "kernel")


def load_into(params: Mapping[str, Any], config: T5Config, path: str | Path) -> Params:
    """Return random parameters in which everything that a public checkpoint has is replaced by its values.

    The network may have more than the checkpoint: rows for docid tokens after those for text, a separate decoder
    vocabulary, rows for docid nodes. New rows of a table that the checkpoint has keep their random directions and get
    the scale of the checkpoint's rows. A decoder vocabulary smaller than the text's stays random.

    Args:
        params: Random parameters of :class:`genret_jax.models.network.T5`; they are not changed.
        config: Configuration of the parameters.
        path: A checkpoint in a layout that :func:`~genret_jax.models.convert.public_checkpoint.open_checkpoint` reads.

    Raises:
        InputError: If the checkpoint cannot be read or belongs to another network; the message names all fields that
            differ.
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
    """Return parameters whose vocabulary has more rows, for docid tokens.

    The new rows are normally distributed with mean 0 and the standard deviation of the table that they extend: at
    another scale, their tokens would win or lose against every text token from the first step on. The embedding is
    extended, and so is the output layer if it is separate.

    Args:
        params: Parameters with t5x's names; they are not changed.
        config: Configuration of the parameters.
        rows: Size of the extended vocabulary.
        seed: Seed of the new rows.

    Raises:
        InputError: If the vocabulary already has more rows.
    """
    if rows < config.vocab_size:
        raise InputError(
            f"a vocabulary of {rows} rows",
            expected=f"at least the checkpoint's {config.vocab_size}",
            fix="choose a larger number of rows",
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
    if different := different_fields(config, public, fields):
        raise InputError(
            f"the checkpoint is of another network: {different}",
            file=path,
            fix="use the gin file of this size in gin_configs/models, or bind these fields",
        )
    # Public tables are padded to a multiple of 128 rows; a vocabulary that is smaller still is another one.
    if config.vocab_size <= public.vocab_size - 256:
        raise InputError(
            f"T5Config.vocab_size is {config.vocab_size}",
            file=path,
            expected=f"the checkpoint's vocabulary ({public.vocab_size} rows)",
            fix="use the checkpoint's own SentencePiece model (VocabularyConfig.kind = 'file')",
        )


def _fill(table: np.ndarray, loaded: np.ndarray | None) -> np.ndarray:
    """Return the table with ``loaded`` in its first rows and columns, and the rest scaled to match."""
    if loaded is None:
        return table
    if table.shape == loaded.shape:
        return loaded
    both = tuple(slice(min(ours, theirs)) for ours, theirs in zip(table.shape, loaded.shape, strict=True))
    table = table * (loaded.std() / max(float(table.std()), 1e-9))
    table[both] = loaded[both]
    return table.astype(np.float32)
