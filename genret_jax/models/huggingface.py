"""Public T5 checkpoints: the safetensors layout of Hugging Face transformers, read and written without torch."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.public_layout import (
    config_from_json,
    config_to_json,
    shape_difference,
    tensor_paths,
    tensor_shape,
    tensor_shapes,
)
from genret_jax.storage import atomic_folder, read_json, write_json

Params = dict[str, Any]

# Copies and leftovers that public files carry beside the parameters.
_REDUNDANT = re.compile(
    r"(encoder|decoder)\.embed_tokens\.weight"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


def load_safetensors(path: str | Path, *, dtype: str = "float32", remat: bool = False) -> tuple[T5Config, Params]:
    """Read a T5 1.0 or 1.1 checkpoint.

    Whether the output layer is tied to the embedding is read off the tensors, not off ``config.json``, whose flag
    means different things in different versions of transformers; whether the decoder's output is scaled is read off
    ``scale_decoder_outputs``, and in older files off that flag.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors`` (or its shards and their index), or the
            safetensors file in such a folder.
        dtype: Type of the computation in the returned configuration.
        remat: As in the returned configuration.

    Returns:
        The configuration, and the parameters as float32 numpy arrays under t5x's names.

    Raises:
        InputError: If files are missing or damaged, the model is not a T5, or tensors do not fit the configuration.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    described = read_json(folder / "config.json")
    tensors = {n: t for f in _weight_files(path) for n, t in _read_tensors(f) if not _REDUNDANT.fullmatch(n)}
    head = tensors.get("lm_head.weight")
    tied = head is None or np.array_equal(head, tensors.get("shared.weight", np.zeros(0)))
    config = config_from_json(described, tie_embeddings=tied, dtype=dtype, remat=remat, file=folder / "config.json")
    if tied:
        tensors.pop("lm_head.weight", None)
    expected = tensor_shapes(config)
    difference = shape_difference({n: t.shape for n, t in tensors.items()}, expected)
    if difference:
        raise InputError(
            f"the tensors do not fit config.json: {difference}",
            file=folder,
            fix="use the config.json that belongs to these weights",
        )
    params: Params = {}
    for name, (keys, transposed) in tensor_paths(config).items():
        _put(params, keys, np.ascontiguousarray(tensors.pop(name).T) if transposed else tensors.pop(name))
    return config, params


def load_into(params: Mapping[str, Any], config: T5Config, path: str | Path) -> Params:
    """Return freshly initialised parameters with everything replaced that a public checkpoint has.

    The network may have what the checkpoint has not: rows for docid tokens after those of text, a decoder vocabulary
    of its own, a row per docid node. New rows of a table keep their random directions, at the scale of the
    checkpoint's rows; a decoder vocabulary that does not begin with the text's gets nothing from it.

    Args:
        params: Random parameters of :class:`genret_jax.models.network.T5`.
        config: Their configuration.
        path: As for :func:`load_safetensors`.

    Raises:
        InputError: If the checkpoint cannot be read, or its network is another one than ``config``; all fields that
            differ are named.
    """
    public, weights = load_safetensors(path)
    _check_same_network(config, public, path)
    loaded = dict(_flatten(weights))
    result: Params = {}
    for name, value in _flatten(params):
        _put(result, tuple(name.split("/")), _fill(np.array(value, np.float32), loaded.get(name)))
    if config.head == "vocabulary" and config.decoder_vocab_size is not None:
        if config.decoder_vocab_size >= config.vocab_size:
            table = result["decoder_token_embedder"]["embedding"]
            result["decoder_token_embedder"]["embedding"] = _fill(table, loaded["token_embedder/embedding"])
        elif not config.tie_embeddings:
            result["decoder"]["logits_dense"]["kernel"] = np.array(params["decoder"]["logits_dense"]["kernel"])
    return result


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


def save_safetensors(
    folder: str | Path, params: Mapping[str, Any], config: T5Config, *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Write a checkpoint that transformers' ``T5ForConditionalGeneration.from_pretrained`` reads.

    Args:
        folder: Destination; must not exist.
        params: Parameters under t5x's names.
        config: Their configuration.
        max_shard_bytes: Start another file when one would grow beyond this.

    Raises:
        InputError: If the network departs from T5 (the field is named), or the parameters do not fit it.
    """
    described = config_to_json(config)
    flat = dict(_flatten(params))
    layout = tensor_paths(config)
    expected = {"/".join(keys): tensor_shape(config, name, flip) for name, (keys, flip) in layout.items()}
    difference = shape_difference({name: np.shape(value) for name, value in flat.items()}, expected)
    if difference:
        raise InputError(
            f"the parameters do not fit the configuration: {difference}", fix="give the run's own T5Config"
        )
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, (keys, transposed) in layout.items():
        value = np.asarray(flat["/".join(keys)], dtype=np.float32)
        if shards[-1] and size + value.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = np.ascontiguousarray(value.T if transposed else value)
        size += value.nbytes
    with atomic_folder(folder) as partial:
        write_json(partial / "config.json", described)
        _write_shards(partial, shards)


def _put(tree: Params, keys: tuple[str, ...], value: np.ndarray) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _weight_files(path: Path) -> list[Path]:
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    index = path if path.name.endswith(".index.json") else path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        return [index.parent / name for name in names]
    single = path / "model.safetensors"
    if not single.is_file():
        raise InputError(
            "no model.safetensors and no model.safetensors.index.json here",
            file=path,
            fix="download the checkpoint in the safetensors layout, or give its folder",
        )
    return [single]


def _read_tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        # The flax framework knows bfloat16, which numpy alone does not.
        with safe_open(file, framework="flax") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a dictionary
                yield name, np.asarray(opened.get_tensor(name)).astype(np.float32)
    except FileNotFoundError:
        raise InputError("a shard is missing", file=file, fix="download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged ({error})", file=file, fix="download the checkpoint again") from None


def _write_shards(folder: Path, shards: list[dict[str, np.ndarray]]) -> None:
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(value.nbytes for shard in shards for value in shard.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
