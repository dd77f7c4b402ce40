"""Shapes of what a plan knows about the documents of a corpus that is not read."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genret_jax.models.plan import PlanTables
from genret_jax.planning.docids import PlannedDocids
from genret_jax.training.planned_docids import PlannedDocids as DocidsInTraining
from genret_jax.training.planned_docids import docid_numbers


def plan_tables(docids: PlannedDocids) -> PlanTables | None:
    """Return the tables of a network's plan, with shapes instead of arrays; None without a plan.

    Args:
        docids: The planned docids, with their network.
    """
    kinds = docids.model.plan
    if kinds is None:
        return None
    rows = math.ceil(docid_numbers(docids.encoded)[1] * docids.scale)
    shapes = {"bias": _shape(np.float32, rows)}
    if kinds.codes:
        shapes["codes"] = _shape(np.int32, rows, docids.length)
    if kinds.dense:
        shapes["vectors"] = _shape(jnp.dtype(kinds.dense_dtype), rows, docids.model.d_model)
        if kinds.dense_dtype == "int8":
            shapes["scales"] = _shape(np.float32, rows)
    if kinds.terms:
        postings = rows * docids.terms + 1
        shapes |= {"postings": _shape(np.int32, postings), "weights": _shape(np.float32, postings)}
        shapes["offsets"] = _shape(np.int32, kinds.vocabulary + 1)
        shapes["highest"] = _shape(np.float32, kinds.vocabulary)
    return PlanTables(**shapes)


def docids_in_training(docids: PlannedDocids) -> DocidsInTraining | None:
    """Return what training keeps about the docids of a plan, with shapes instead of arrays; None without a plan."""
    tables = plan_tables(docids)
    if tables is None:
        return None
    nodes = math.ceil(docids.encoded.tree.num_nodes * docids.scale)
    shown, numbers = _shape(np.bool_, tables.num_docids), _shape(np.int32, docids.documents)
    return DocidsInTraining(tables, _shape(np.int32, nodes), _shape(np.int32, nodes), shown, numbers)


def _shape(dtype: Any, *sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, dtype)
