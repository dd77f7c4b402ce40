"""Write an encoder of the BERT family as a folder of sentence-transformers."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from genret_jax.models.convert.bert_layout import bert_tensors
from genret_jax.models.encoders.provenance import RECORD, WEIGHTS, body, write_trained_record
from genret_jax.storage import atomic_folder, read_json, write_json

_TYPES = ("dtype", "torch_dtype")  # config.json's names for the type of the weights, of new and old versions


def write_sentence_folder(out: str | Path, params: Mapping[str, Any], source: Path, *, step: int) -> None:
    """Write an encoder as sentence-transformers does, with the tensor names and modules of the folder it began with.

    Args:
        out: Folder to create; it must not exist.
        params: Parameters of the encoder, which may have been trained.
        source: Folder that the encoder began with. Its tokenizer, pooling and prompts are copied.
        step: Training steps of the parameters, for the record.

    Raises:
        InputError: If the source's files are missing or damaged, or something is at ``out``.
    """
    network = body(source)
    tensors = bert_tensors(source / network, params)
    with atomic_folder(out) as folder:
        for file in sorted(source.rglob("*.json")):
            if file.name != RECORD and not file.name.endswith(".index.json"):
                copied = folder / file.relative_to(source)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copied)
        described = read_json(source / network / "config.json", expect=dict)
        if any(described.get(name) not in (None, "float32") for name in _TYPES):
            changed = {name: "float32" for name in _TYPES if name in described}
            write_json(folder / network / "config.json", {**described, **changed})
        if not (folder / "modules.json").is_file():
            _write_modules(folder, described["hidden_size"])
        save_file(tensors, folder / network / WEIGHTS, metadata={"format": "pt"})
        write_trained_record(folder, source=source, step=step)


def _write_modules(folder: Path, width: int) -> None:
    """Write the modules of a folder of transformers alone, whose states are averaged."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
