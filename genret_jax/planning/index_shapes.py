"""The shapes of a docid index and of a docid tree, for as many documents as planned."""

import dataclasses
import math
from typing import Any

import jax

from genret_jax.decoding import DocidIndex
from genret_jax.decoding.layout import Capacity, Layout, Level
from genret_jax.decoding.sorting import smallest_type
from genret_jax.inference.ranker import docid_index, node_tree
from genret_jax.models.heads import NodeTree
from genret_jax.planning.docid_shapes import PlannedDocids


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenOut(Layout):
    """A layout whose every depth is searched by code of its own.

    The compiler counts one turn of a loop, however many it makes; of this it counts everything.
    """

    @property
    def levels(self) -> tuple[Level, ...]:
        """The depths one by one, as wide as in their group."""
        return tuple(
            Level(depth, depth + 1, *level[2:]) for level in super().levels for depth in range(level.start, level.stop)
        )

    @classmethod
    def of(cls, layout: Layout) -> "WrittenOut":
        """Return a layout, written out."""
        return cls(**{field.name: getattr(layout, field.name) for field in dataclasses.fields(layout)})


def written_out(index: DocidIndex) -> DocidIndex:
    """Return an index whose search is written out, for the compiler to count."""
    return dataclasses.replace(index, layout=WrittenOut.of(index.layout))


def index_shapes(docids: PlannedDocids) -> DocidIndex:
    """Return the index of the planned documents, its arrays being shapes.

    It is that of a real one. Where docids were made for some subtrees only, every axis that grows with the documents
    is stretched to all of them; below the root, subtrees are alike. The few wide prefixes near the root, which do not
    grow, are stretched with the others: so the index comes out somewhat too large, by 7% where a tenth of 40,000
    docids is made, by less of more.
    """
    index = docid_index(docids.encoded, docids.model.output_vocab_size)
    built, scale = index.num_docids, docids.scale
    shapes: Any = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), index)
    if scale == 1:
        return shapes
    fixed = {"first_tokens", "count", "layout", "vocab_size"}
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(DocidIndex):
        array = getattr(shapes, field.name)
        if field.name not in fixed and array is not None:
            changed[field.name] = _stretched(array, -1 if field.name == "row_nodes" else 0, scale)
    layout = _stretched_layout(index.layout, built, scale)
    for name in {"columns", "edge_tokens"} & set(changed):  # more documents may need wider codes
        changed[name] = jax.ShapeDtypeStruct(changed[name].shape, smallest_type(max(layout.spans) - 1))
    return dataclasses.replace(shapes, **changed, layout=layout)


def tree_shapes(docids: PlannedDocids) -> NodeTree | None:
    """Return the docid tree of a search by the prefix head, its arrays being shapes; None for T5's head."""
    if docids.searched.head != "prefix":
        return None
    tree = node_tree(docids.encoded)
    shapes: Any = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)
    if docids.scale == 1:
        return shapes
    flat = tree.root_fanout == docids.built  # atomic docids: the root has them all
    fields: dict[str, Any] = {
        name: _stretched(getattr(shapes, name), 0, docids.scale)
        for name in ("child_offsets", "child_nodes", "child_tokens", "judges", "judge_tokens")
        if name != "child_offsets" or docids.codec.nodes == "table"
    }
    if flat:
        fields |= {"judges_of": _stretched(shapes.judges_of, 0, docids.scale), "fanouts": (docids.documents,)}
    return dataclasses.replace(shapes, **fields)


def _stretched(array: Any, axis: int, scale: float) -> jax.ShapeDtypeStruct:
    shape = list(array.shape)
    shape[axis] = math.ceil(shape[axis] * scale)
    return jax.ShapeDtypeStruct(tuple(shape), array.dtype)


def _stretched_layout(layout: Layout, built: int, scale: float) -> Layout:
    def stretched(sizes: tuple[int, ...]) -> tuple[int, ...]:
        # Only atomic docids have as many rows, or tokens, at one depth as there are documents.
        return tuple(math.ceil(size * scale) if size >= built else size for size in sizes)

    return dataclasses.replace(
        layout,
        edges=stretched(layout.edges),
        rows=stretched(layout.rows),
        spans=stretched(layout.spans),
        capacity=Capacity(*(math.ceil(size * scale) for size in layout.capacity)),
    )
