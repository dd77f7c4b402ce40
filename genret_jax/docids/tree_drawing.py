"""A drawing of a part of a docid tree, with the documents in it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from genret_jax.docids.table import DocidTable


def tree_text(
    table: DocidTable, titles: Sequence[str] | None = None, *, depth: int = 2, branches: int = 4, documents: int = 3
) -> str:
    """Draw the largest branches of the tree, and documents at the ends of what is drawn.

    Args:
        table: The docids.
        titles: Names of the documents; by default their ids.
        depth: Levels of branches to draw.
        branches: Most branches to draw of a node.
        documents: Most documents to name of a branch that is not drawn further.
    """
    drawing = _Drawing(table, table.doc_ids if titles is None else titles, depth, branches, documents)
    by_code = np.lexsort(table.padded().T[::-1]) if table.num_rows else np.zeros(0, np.int64)
    drawing.draw(by_code, 0, "")
    return "\n".join([f"root: {_count(table.num_rows, 'docid')}", *drawing.lines])


class _Drawing:
    def __init__(self, table: DocidTable, names: Sequence[str], depth: int, branches: int, documents: int):
        self.table, self.names = table, names
        self.depth, self.branches, self.documents = depth, branches, documents
        self.lengths = table.lengths
        self.path = table.paths()
        self.lines: list[str] = []

    def draw(self, rows: Int[np.ndarray, " a"], level: int, indent: str) -> None:
        """Draw what is below the node that all these rows have at this level."""
        inner = rows[self.lengths[rows] > level]
        if level == self.depth or not len(inner):
            self._draw_documents(rows, indent, closed=True)
            return
        nodes, counts = np.unique(self.path[inner, level + 1], return_counts=True)
        if counts.max() == 1:
            self._draw_documents(rows, indent, closed=True)
            return
        self._draw_documents(rows[self.lengths[rows] == level], indent, closed=False)
        largest = np.sort(np.argsort(-counts, kind="stable")[: self.branches])
        hidden = len(nodes) - len(largest)
        for place, index in enumerate(largest, 1):
            last = place == len(largest) and not hidden
            below = inner[self.path[inner, level + 1] == nodes[index]]
            if len(below) == 1:
                self._add(indent, self._document(below[0]), last=last)
                continue
            self._add(indent, f"{self.table.node_code[nodes[index]]}: {_count(len(below), 'docid')}", last=last)
            self.draw(below, level + 1, indent + ("   " if last else "│  "))
        if hidden:
            rest = _count(int(counts.sum() - counts[largest].sum()), "docid")
            self._add(indent, f"… {_count(hidden, 'more branch', 'more branches')} with {rest}", last=True)

    def _draw_documents(self, rows: Int[np.ndarray, " a"], indent: str, *, closed: bool) -> None:
        shown = rows[: self.documents]
        hidden = len(rows) - len(shown)
        for place, row in enumerate(shown, 1):
            self._add(indent, self._document(row), last=closed and not hidden and place == len(shown))
        if hidden:
            self._add(indent, f"… {_count(hidden, 'more docid')}", last=closed)

    def _document(self, row: np.integer) -> str:
        name = " ".join(self.names[self.table.document[row]].split())
        return f"{'-'.join(map(str, self.table.docid(row)))}  {name if len(name) <= 80 else name[:79] + '…'}"

    def _add(self, indent: str, text: str, *, last: bool) -> None:
        self.lines.append(f"{indent}{'└─' if last else '├─'} {text}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
