"""Run folders: what they hold, opened; on documents and on items."""

from genret_jax.run.base import (
    CONFIGURATION,
    DOCUMENTS,
    IDENTITY,
    ITEMS,
    LEARNING,
    LOCK,
    QUANTISER,
    SEED_FOLDER,
    SETTINGS,
    START_VECTORS,
    VERSION,
    Run,
    as_json,
    docid_index,
    from_json,
    node_tree,
    run_folders,
    stderr,
)
from genret_jax.run.documents import DocumentRun
from genret_jax.run.items import ItemRun

__all__ = [
    "CONFIGURATION",
    "DOCUMENTS",
    "IDENTITY",
    "ITEMS",
    "LEARNING",
    "LOCK",
    "QUANTISER",
    "SEED_FOLDER",
    "SETTINGS",
    "START_VECTORS",
    "VERSION",
    "DocumentRun",
    "ItemRun",
    "Run",
    "as_json",
    "docid_index",
    "from_json",
    "node_tree",
    "run_folders",
    "stderr",
]
