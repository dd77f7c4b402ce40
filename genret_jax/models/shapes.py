"""Compare two sets of named array shapes, and describe the difference for a user."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

_LAYER_NUMBER = re.compile(r"(block\.|layers_)\d+")


def shape_difference(found: Mapping[str, Any], expected: Mapping[str, Any], *, limit: int = 10) -> str:
    """Describe in one line how two sets of named shapes differ; return an empty string if they are equal.

    A difference that several layers share is listed once: ``decoder.block.*.layer_norm.weight ×12 [8]``.

    Args:
        found: Maps each array's name to its shape ``(2, 3)``, or to its type and shape ``("float32", (2, 3))``.
        expected: The same for the arrays that are needed.
        limit: Largest number of differences to list, so that the message stays readable.
    """
    found, expected = ({name: _text(shape) for name, shape in shapes.items()} for shapes in (found, expected))
    kinds = {
        "missing": [(name, text) for name, text in expected.items() if name not in found],
        "unexpected": [(name, text) for name, text in found.items() if name not in expected],
        "different": [
            (name, f"{found[name]} instead of {text}")
            for name, text in expected.items()
            if found.get(name, text) != text
        ],
    }
    kinds = {kind: entries for kind, entries in kinds.items() if entries}
    # Each kind gets an equal share of the line: an array that was renamed shows up as missing and as unexpected.
    room = max(1, limit // max(1, len(kinds)))
    parts = []
    for kind, entries in kinds.items():
        groups = across_layers(entries)
        phrases = [f"{name} {text}" for name, text, _ in groups[:room]]
        rest = sum(count for _, _, count in groups[room:])
        parts.append(f"{len(entries)} {kind}: {', '.join(phrases)}{f' and {rest} more' if rest else ''}")
    return "; ".join(parts)


def named_shapes(params: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a nested dict, by paths such as ``decoder/layers_0/mlp/wo/kernel``."""
    return {name: np.shape(array) for name, array in flatten_dict(params, sep="/").items()}


def across_layers(entries: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Merge the entries of arrays that differ only in the number of their layer.

    Args:
        entries: Pairs of an array's name and a text about it.

    Returns:
        Triples of a name, the text, and the number of arrays merged. The name of a merged entry has ``layers_*`` and
        the count in it.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, text in entries:
        groups.setdefault((_LAYER_NUMBER.sub(r"\1*", name), text), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{pattern} ×{len(names)}", text, len(names))
        for (pattern, text), names in groups.items()
    ]


def _text(shape: Any) -> str:
    dtype, sizes = shape if len(shape) == 2 and isinstance(shape[0], str) else ("", shape)
    return f"{dtype}{list(sizes)}"


def decoder_embedding(params: Mapping[str, Any]) -> Any:
    """Return the table by which a decoder reads tokens: its own, or the one that it shares with T5's encoder."""
    own = "decoder_token_embedder"
    return params[own if own in params else "token_embedder"]["embedding"]
