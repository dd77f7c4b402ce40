"""Read and write T5 checkpoints in the safetensors layout of Hugging Face transformers, without torch."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.public_layout import config_from_json, config_to_json, tensor_paths, tensor_shapes
from genret_jax.models.convert.stored_arrays import StoredArray, StoredArrays, path_within
from genret_jax.models.convert.t5x_layout import require_fitting, write_sentencepiece
from genret_jax.models.shapes import shape_difference
from genret_jax.storage import atomic_folder, read_json, write_json

Params = dict[str, Any]

LAYOUT = "Hugging Face safetensors"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Tensors of public files that are copies of others, or that T5 does not use.
_REDUNDANT = re.compile(
    r"(encoder|decoder)\.embed_tokens\.weight"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def find_tensors(path: str | Path) -> StoredArrays:
    """Return the tensors of a checkpoint without reading their values.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors`` (or its shards and their index), or the
            safetensors file in such a folder.

    Raises:
        InputError: If files are missing or damaged, or the index names files outside the folder.
    """
    path = Path(path)
    tensors: dict[str, StoredArray] = {}
    for file in _weight_files(path):
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118  # not a dictionary
                part = opened.get_slice(name)
                kind = _DTYPES.get(part.get_dtype(), part.get_dtype())
                tensors[name] = StoredArray(tuple(part.get_shape()), kind, partial(_read_tensor, file, name, kind))
    if (table := tensors.get("encoder.embed_tokens.weight")) is not None:
        tensors.setdefault("shared.weight", table)  # some files keep this one of the copies
    arrays = {name: array for name, array in tensors.items() if not _REDUNDANT.fullmatch(name)}
    return StoredArrays(path if path.is_dir() else path.parent, LAYOUT, arrays)


def config_of_tensors(stored: StoredArrays) -> T5Config:
    """Return the configuration that ``config.json`` and the tensors beside it describe.

    The tensors decide whether the output layer is tied to the embedding: the flag of ``config.json`` has different
    meanings in different versions of transformers. The key ``scale_decoder_outputs`` decides whether the decoder's
    output is scaled; older files do not have it, and there the flag decides.

    Raises:
        InputError: If ``config.json`` is missing, the model is not a T5, or tensors do not fit the configuration.
    """
    file, tied = stored.path / "config.json", _is_tied(stored)
    config = config_from_json(read_json(file, expect=dict), tie_embeddings=tied, file=file)
    shapes = stored.shapes
    if tied:
        shapes.pop("lm_head.weight", None)
    if difference := shape_difference(shapes, tensor_shapes(config)):
        raise InputError(
            f"the tensors do not fit config.json: {difference}",
            file=stored.path,
            fix="use the config.json that belongs to these weights",
        )
    return config


def _is_tied(stored: StoredArrays) -> bool:
    head, embedding = stored.arrays.get("lm_head.weight"), stored.arrays.get("shared.weight")
    if head is None or embedding is None or head.shape != embedding.shape:
        return head is None
    return np.array_equal(head.read(), embedding.read())


def params_of_tensors(stored: StoredArrays, config: T5Config, names: Collection[str] | None = None) -> Params:
    """Read tensors and return them as parameters with t5x's names.

    Args:
        stored: Tensors from :func:`find_tensors`.
        config: Their configuration, from :func:`config_of_tensors`.
        names: The tensors to read; None for all.
    """
    flat, layout = {}, tensor_paths(config)
    for name in layout if names is None else names:
        keys, transposed = layout[name]
        tensor = stored.arrays[name].read()
        flat[keys] = np.ascontiguousarray(tensor.T) if transposed else tensor
    params: Params = unflatten_dict(flat)
    return params


def save_safetensors(
    folder: str | Path,
    params: Mapping[str, Any],
    config: T5Config,
    *,
    max_shard_bytes: int = 5_000_000_000,
    sentencepiece: bytes | None = None,
) -> None:
    """Write a checkpoint that transformers' ``T5ForConditionalGeneration.from_pretrained`` reads.

    Args:
        folder: Folder to create; it must not exist.
        params: Parameters with t5x's names.
        config: Configuration of the parameters.
        max_shard_bytes: Largest size of one file; more parameters are split over several.
        sentencepiece: Content of the SentencePiece model, written beside the weights as ``spiece.model``.

    Raises:
        InputError: If the network departs from T5 (the message names the field), or the parameters do not fit it.
    """
    described = config_to_json(config)
    require_fitting(params, config)
    flat = flatten_dict(params)
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, (keys, transposed) in tensor_paths(config).items():
        value = np.asarray(flat[keys], dtype=np.float32)
        if shards[-1] and size + value.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = np.ascontiguousarray(value.T if transposed else value)
        size += value.nbytes
    with atomic_folder(folder) as partial_folder:
        write_json(partial_folder / "config.json", described)
        write_sentencepiece(partial_folder, sentencepiece)
        _write_shards(partial_folder, shards)


def _weight_files(path: Path) -> list[Path]:
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    index = path if path.name.endswith(".index.json") else path / _INDEX
    if index.is_file():
        shards = read_json(index, expect=dict).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InputError(
                "no map of tensors to files",
                file=index,
                expected='{"weight_map": {TENSOR: FILE}}',
                fix="download the checkpoint again",
            )
        return sorted({path_within(index.parent, name, named_in=index) for name in shards.values()})
    if not (path / _SINGLE).is_file():
        raise InputError(
            f"no {_SINGLE} and no {_INDEX} here",
            file=path,
            fix="download the checkpoint in the safetensors layout, or give its folder",
        )
    return [path / _SINGLE]


@contextmanager
def _opened(file: Path, framework: str = "flax") -> Iterator[Any]:
    try:
        with safe_open(file, framework=framework) as opened:
            yield opened
    except FileNotFoundError:
        raise InputError("a shard is missing", file=file, fix="download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged ({error})", file=file, fix="download the checkpoint again") from None


def _read_tensor(file: Path, name: str, kind: str) -> np.ndarray:
    is_float = kind in _DTYPES.values()
    # The flax framework knows bfloat16, which numpy alone does not; numpy keeps integers of 64 bits.
    with _opened(file, "flax" if is_float else "numpy") as opened:
        tensor = np.asarray(opened.get_tensor(name))
    return tensor.astype(np.float32) if is_float else tensor


def _write_shards(folder: Path, shards: list[dict[str, np.ndarray]]) -> None:
    if len(shards) == 1:
        save_file(shards[0], folder / _SINGLE, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(value.nbytes for shard in shards for value in shard.values())
    write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
