"""Read the modules of a folder of sentence-transformers that stand around the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.errors import InputError
from genret_jax.models.convert.huggingface import find_tensors
from genret_jax.models.convert.stored_arrays import path_within
from genret_jax.models.encoders.config import Pooling
from genret_jax.models.encoders.pooling import Activation, Projection
from genret_jax.models.shapes import shape_difference
from genret_jax.storage import read_json

_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max"}
# The same in folders of sentence-transformers before version 6.
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Tanh": "tanh"}
_UNCUT = 512  # tokens of the longest input of T5's training, for folders that name no length
_ENDLESS = 1 << 20  # transformers writes 10**30 for no length
_AGAIN = "download the folder again"


def find_modules(folder: Path) -> dict[str, Path]:
    """Return the folder of each module, by its kind; without ``modules.json``, the folder is the network.

    Raises:
        InputError: If there is no folder, or its modules are of other kinds or in another order.
    """
    if not folder.is_dir():
        raise InputError("this is not a folder", file=folder, expected="an encoder's folder", fix="check the path")
    file = folder / "modules.json"
    if not file.is_file():
        _require_safetensors(folder)
        return {"Transformer": folder}
    found = []
    for module in read_json(file, expect=list):
        kind = str(module.get("type")).rpartition(".")[2] if isinstance(module, dict) else str(module)
        if kind not in _MODULES:
            raise InputError(f"the module {kind}", file=file, expected=f"one of {', '.join(_MODULES)}")
        found.append((kind, path_within(folder, module.get("path") or ".", named_in=file)))
    kinds = [kind for kind, _ in found]
    if kinds != [kind for kind in _MODULES if kind in kinds] or kinds[:2] != ["Transformer", "Pooling"]:
        raise InputError(
            f"the modules {', '.join(kinds)}",
            file=file,
            expected="Transformer, Pooling, then perhaps Dense, then perhaps Normalize",
            fix="give another encoder",
        )
    for _, path in found:
        _require_safetensors(path)
    return dict(found)


def read_pooling(folder: Path, width: int) -> Pooling:
    """Read the module Pooling.

    Args:
        folder: Folder of the module.
        width: Width of the network's states.

    Raises:
        InputError: If the file is missing or damaged, or the pooling is of another kind.
    """
    file = folder / "config.json"
    stored = read_json(file, expect=dict)
    found = stored.get("embedding_dimension", stored.get("word_embedding_dimension"))
    if found != width:
        expected = f"{width}, as the encoder"
        raise InputError(f"pooling of vectors of width {found}", file=file, expected=expected, fix=_AGAIN)
    flags = [name for name, value in stored.items() if name.startswith("pooling_mode_") and value is True]
    chosen = stored.get("pooling_mode", [_POOLING_FLAGS.get(name, name) for name in flags])
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(chosen, list) or len(chosen) != 1 or chosen[0] not in _POOLINGS:
        said = ", ".join(map(str, chosen)) if isinstance(chosen, list) else repr(chosen)
        raise InputError(f"pooling by {said or 'nothing'}", file=file, expected=f"one of {', '.join(_POOLINGS)}")
    _require(stored, file, include_prompt=True)
    return _POOLINGS[chosen[0]]


def read_projection(folder: Path, width: int) -> Projection:
    """Read the module Dense.

    Args:
        folder: Folder of the module.
        width: Width of the pooled vectors.

    Raises:
        InputError: If files are missing or damaged, tensors do not fit, or the module is of another kind.
    """
    file = folder / "config.json"
    stored = read_json(file, expect=dict)
    named = str(stored.get("activation_function", "Tanh")).rpartition(".")[2]
    if named not in _ACTIVATIONS:
        raise InputError(f"activation_function {named}", file=file, expected=f"one of {', '.join(_ACTIVATIONS)}")
    whole = "sentence_embedding"
    _require(stored, file, module_input_name=whole, module_output_name=whole, use_residual=False)
    out = stored.get("out_features")
    shapes: dict[str, tuple[Any, ...]] = {"linear.weight": (out, width)}
    if stored.get("bias", True):
        shapes["linear.bias"] = (out,)
    tensors = find_tensors(folder)
    if difference := shape_difference(tensors.shapes, shapes):
        raise InputError(f"the tensors do not fit config.json: {difference}", file=folder, fix=_AGAIN)
    arrays = {name: array.read() for name, array in tensors.arrays.items()}
    kernel = np.ascontiguousarray(arrays["linear.weight"].T)
    bias = arrays.get("linear.bias", np.zeros(kernel.shape[1], np.float32))
    return Projection(kernel=kernel, bias=bias, activation=_ACTIVATIONS[named])


def read_max_length(body: Path, limit: int | None) -> int:
    """Return the number of tokens of the longest input.

    Args:
        body: Folder of the module Transformer.
        limit: Longest input of the network; None for any.

    Raises:
        InputError: If a file has an impossible length.
    """
    lengths = [] if limit is None else [limit]
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (stored := _read_if_there(body / name).get(key)) is None:
            continue
        if not (isinstance(stored, int) and stored > 2):
            raise InputError(f"{key} {stored!r}", file=body / name, expected="an integer of at least 3, or null")
        lengths.append(stored)
        break
    return min((length for length in lengths if length < _ENDLESS), default=_UNCUT)


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of queries and documents, by the names ``"query"`` and ``"passage"``.

    Folders name the prompt of documents ``document``, ``passage`` or ``corpus``; recent ones have an empty ``document``
    beside another.
    """
    stored = _read_if_there(folder / "config_sentence_transformers.json").get("prompts")
    stored = stored if isinstance(stored, dict) else {}
    passages = (stored.get(name) for name in ("document", "passage", "corpus"))
    return {"query": str(stored.get("query") or ""), "passage": str(next(filter(None, passages), ""))}


def read_tokenizer(body: Path) -> Any:
    """Read the ``tokenizers.Tokenizer`` of the network.

    Args:
        body: Folder of the module Transformer.

    Raises:
        InputError: If ``tokenizer.json`` is missing or damaged.
    """
    from tokenizers import Tokenizer, normalizers

    file = body / "tokenizer.json"
    if not file.is_file():
        raise InputError("the file is missing", file=file, fix=_AGAIN)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"not a tokenizer ({error})", file=file, fix=_AGAIN) from None
    tokenizer.no_padding()
    if _read_if_there(body / "sentence_bert_config.json").get("do_lower_case") is True:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _require_safetensors(folder: Path) -> None:
    pickled = folder / "pytorch_model.bin"
    if pickled.is_file() and not any(folder.glob("model*.safetensors*")):
        raise InputError(
            "PyTorch's pickled weights, which this package does not read",
            file=pickled,
            expected="model.safetensors",
            fix="save the encoder anew where torch is installed: SentenceTransformer(FOLDER).save_pretrained(OUT)",
        )


def _read_if_there(file: Path) -> dict[str, Any]:
    return read_json(file, expect=dict) if file.is_file() else {}


def _require(stored: Mapping[str, Any], file: Path, **wanted: Any) -> None:
    """Raise if a field that changes the vectors has another value than the one that this package computes."""
    for name, value in wanted.items():
        if (found := stored.get(name)) not in (None, value):
            raise InputError(f"{name} {found!r}", file=file, expected=repr(value), fix="give another encoder")
