"""Tiny folders of sentence encoders with what sentence-transformers computes (scripts/make_encoder_golden.py)."""

import json
import shutil
from pathlib import Path
from typing import Any

ENCODERS = Path(__file__).resolve().parent.parent / "golden" / "encoders"
TEXTS = json.loads((ENCODERS / "texts.json").read_text())


def copy_encoder(name: str, folder: Path) -> Path:
    """Copy a folder, to change it."""
    return shutil.copytree(ENCODERS / name, folder)


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None removes a field."""
    changed = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def remove_module(folder: Path, kind: str) -> None:
    """Remove the modules of a kind from modules.json."""
    file = folder / "modules.json"
    kept = [module for module in json.loads(file.read_text()) if not module["type"].endswith(kind)]
    file.write_text(json.dumps(kept))
