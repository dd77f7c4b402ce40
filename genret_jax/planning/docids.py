"""The docids and the docid index of a corpus that is not read: only its number of documents is known.

Docids are made up as evenly as their strategy allows. For a large corpus, only some whole subtrees of the docid tree
are built; every axis that grows with the documents is then scaled to all of them.
"""

import dataclasses
import math
import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from genret_jax.config.experiment import Experiment
from genret_jax.decoding import DocidIndex
from genret_jax.decoding.layout import Capacity, Layout, Level
from genret_jax.decoding.sorting import smallest_type
from genret_jax.docids import (
    AtomicDocids,
    DocidCodec,
    DocidTable,
    EncodedDocids,
    HierarchicalKMeans,
    LearnedDocids,
    NaiveStringDocids,
    NpyDocids,
)
from genret_jax.docids.separating import with_separating
from genret_jax.docids.strategies.arbitrary import digits
from genret_jax.errors import InputError
from genret_jax.inference import docid_index, node_tree
from genret_jax.models.config import T5Config
from genret_jax.models.encoders.getting import find_encoder
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.models.folding import folded_shape
from genret_jax.models.heads import NodeTree
from genret_jax.problems.sizing import document_codec, document_network, with_encoder

#: For more documents than this, only some subtrees of the docid tree are built.
MOST_BUILT = 1_000_000
#: Distinct terms of a document, where nothing is known: those of a passage of some 90 words.
USUAL_TERMS = 50
Codes = tuple[Int32[np.ndarray, "n m"], list[int]]
_T5_VOCABULARY = 32_100  # pieces of T5's SentencePiece model, with its 100 sentinels
_BYTE_VOCABULARY = 259  # ByT5's padding, EOS and unknown, and 256 bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedDocids:
    """The docids of a plan, and the network that writes them.

    Attributes:
        documents: Number of documents in the corpus.
        encoded: The docids that were built, for all documents or for some whole subtrees.
        codec: Codec that turned the docids into tokens.
        nodes: Number of nodes in the tree of all documents.
        model: The network, sized for all documents.
        terms: Mean number of distinct terms in a document, for a lexical plan.
    """

    documents: int
    encoded: EncodedDocids
    codec: DocidCodec
    nodes: int
    model: T5Config
    terms: int

    @property
    def searched(self) -> T5Config:
        """The network that is used in a search."""
        return folded_shape(self.model, self.nodes)

    @property
    def built(self) -> int:
        """Number of documents whose docids were built."""
        return len(self.encoded.lengths)

    @property
    def scale(self) -> float:
        """Number of documents that each built docid represents."""
        return self.documents / self.built

    @property
    def length(self) -> int:
        """Number of tokens of the longest docid."""
        return int(self.encoded.tokens.shape[1])


def planned_docids(
    experiment: Experiment, documents: int | None, most: int = MOST_BUILT, *, terms: int = USUAL_TERMS
) -> PlannedDocids:
    """Return docids like those that an experiment would give to this number of documents.

    Clusters are assumed to be of equal size, and the codes of residual quantisation to be uniform. Trees that k-means
    makes from real documents are less even, and so somewhat deeper.

    Args:
        experiment: The experiment; ``docids``, ``codec``, ``vocabulary``, ``encoder`` and ``model`` are used.
        documents: Number of documents; None if ``docids`` is a saved table.
        most: Largest number of docids to build.
        terms: Mean number of distinct terms in a document, for a lexical plan.

    Raises:
        InputError: If the number is missing, below 2, or different from that of the saved table, if nothing is known
            about the strategy's docids, or if the encoder is not here.
    """
    if isinstance(experiment.docids, str):
        table = DocidTable.load(experiment.docids)
        if documents not in (None, table.num_documents):
            raise InputError(
                f"{documents} documents to plan for",
                expected=f"the {table.num_documents} documents of the table {experiment.docids}",
                fix="leave the number of documents out",
            )
        documents = table.num_documents
    elif documents is None or documents < 2:
        raise InputError(
            f"the number of documents to plan for is {'missing' if documents is None else documents}",
            expected="at least 2",
            fix="give the number of documents",
        )
    else:
        codes, level_sizes = planned_codes(experiment.docids, documents, most)
        names = [str(number) for number in range(len(codes))]
        table = DocidTable.from_codes(names, codes, level_sizes=level_sizes, strategy={}, corpus_fingerprint="")
    encoder = None if experiment.encoder is None else SentenceEncoder.load(find_encoder(experiment.encoder))
    text_tokens = text_vocabulary_size(experiment) if encoder is None else encoder.config.vocab_size
    # A docid written as text is assumed to have one token per character.
    codec = document_codec(experiment, table, text_tokens, lambda text: [2 + ord(character) % 64 for character in text])
    encoded = codec.encode(table)
    nodes = encoded.tree.num_nodes
    if codec.nodes == "table":  # otherwise nodes have the numbers of tokens, and so already count all documents
        nodes = math.ceil(nodes * documents / len(encoded.lengths))
    vocabulary = distinct_terms(documents * terms)
    model = document_network(experiment, text_tokens, codec, nodes, vocabulary)
    if encoder is not None:
        model = with_encoder(model, encoder, codec, vocabulary, experiment.sampler.input_length)
    return PlannedDocids(documents=documents, encoded=encoded, codec=codec, nodes=nodes, model=model, terms=terms)


def distinct_terms(occurrences: int) -> int:
    """Return about how many different terms a corpus has, with padding, by Heaps' law.

    The constants are those of Reuters-RCV1 (Manning, Raghavan and Schütze 2008, "Introduction to Information
    Retrieval", section 5.1.1).

    Args:
        occurrences: Number of terms in all documents together.
    """
    return 1 + round(44 * occurrences**0.49)


def text_vocabulary_size(experiment: Experiment) -> int:
    """Return the size of the text vocabulary of an experiment without an encoder: as configured, or T5's for a file."""
    wanted = experiment.vocabulary
    assert wanted is not None
    sizes = {"sentencepiece": wanted.size, "bytes": _BYTE_VOCABULARY}
    return sizes[wanted.kind] + wanted.extra_ids if wanted.kind in sizes else _T5_VOCABULARY


def planned_codes(strategy: Any, documents: int, most: int) -> Codes:
    """Return codes, padded with -1, of all documents or of at most ``most`` in whole subtrees; and the level sizes.

    Raises:
        InputError: If nothing is known about the strategy's docids.
    """
    if isinstance(strategy, AtomicDocids):
        return np.arange(min(documents, most), dtype=np.int32)[:, None], [documents]
    if isinstance(strategy, NaiveStringDocids):
        return digits(np.arange(max(0, documents - most), documents)), [10] * len(str(documents - 1))
    if isinstance(strategy, HierarchicalKMeans):
        return _clustered(strategy, documents, most)
    if isinstance(strategy, NpyDocids):
        names = [str(number) for number in range(documents)]
        with warnings.catch_warnings():  # about shared docids, of which preparing the run warns
            warnings.simplefilter("ignore")
            table = strategy.assign(names, None, seed=0, corpus_fingerprint="")
        return table.padded(), list(table.level_sizes)
    if hasattr(strategy, "levels") and hasattr(strategy, "codebook"):
        return _quantised(strategy, documents, most)
    raise InputError(
        f"docids of {type(strategy).__name__}, of which a plan does not know the number of levels and codes",
        expected="a strategy of this package, or one with the attributes 'levels' and 'codebook'",
        fix="build the docids, and plan with the folder of the saved docid table",
    )


def _clustered(strategy: HierarchicalKMeans, documents: int, most: int) -> Codes:
    """Return paths through clusters of equal size, followed by the position in the last cluster."""
    branching, depth = strategy.branching, 0
    while math.ceil(documents / branching**depth) > strategy.leaf_size:
        depth += 1
    clusters = branching**depth
    kept = max(1, min(clusters, clusters * most // documents))
    numbers = np.arange(kept)
    if branching <= kept < clusters:
        # Take clusters from below every first code, so that the root keeps all its children.
        numbers = (np.arange(branching)[:, None] * (clusters // branching) + np.arange(kept // branching)).reshape(-1)
    sizes = documents // clusters + (numbers < documents % clusters)
    cluster = np.repeat(numbers, sizes)
    position = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    path = [cluster // branching ** (depth - 1 - level) % branching for level in range(depth)]
    return np.stack([*path, position], 1).astype(np.int32), [*[branching] * depth, strategy.leaf_size]


def _quantised(strategy: Any, documents: int, most: int) -> Codes:
    """Return uniform codes, with a last code that separates equal ones if the strategy adds one."""
    allowed, share = [strategy.codebook] * strategy.levels, 1.0
    for level in range(1, strategy.levels):
        wanted = documents * share / most
        if wanted > 1:
            allowed[level] = max(1, int(strategy.codebook / wanted))
            share *= allowed[level] / strategy.codebook
    random, count = np.random.default_rng(0), max(1, int(documents * share))
    codes = np.stack([random.integers(0, size, count, np.int32) for size in allowed], 1)
    level_sizes = (strategy.codebook,) * strategy.levels
    if isinstance(strategy, LearnedDocids) or getattr(strategy, "separate", False):
        codes, level_sizes = with_separating(codes, level_sizes)
    return codes, list(level_sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenOut(Layout):
    """A layout in which a search has separate code for every depth.

    The compiler counts one iteration of a loop, however many there are; without loops it counts everything.
    """

    @property
    def levels(self) -> tuple[Level, ...]:
        """The depths one by one, each with the sizes of its group of depths."""
        return tuple(
            Level(depth, depth + 1, *level[2:]) for level in super().levels for depth in range(level.start, level.stop)
        )

    @classmethod
    def of(cls, layout: Layout) -> "WrittenOut":
        """Return a layout with separate code for every depth."""
        return cls(**{field.name: getattr(layout, field.name) for field in dataclasses.fields(layout)})


def written_out(index: DocidIndex) -> DocidIndex:
    """Return an index whose search has no loop over depths, so that the compiler counts all of it."""
    return dataclasses.replace(index, layout=WrittenOut.of(index.layout))


def index_shapes(docids: PlannedDocids) -> DocidIndex:
    """Return the docid index of the planned documents, with shapes instead of arrays.

    Where only some subtrees were built, every axis that grows with the documents is scaled to all of them; below the
    root, subtrees are alike. The few wide prefixes near the root do not grow but are scaled too, so the index comes
    out somewhat too large: by 7% if a tenth of 40,000 docids is built, by less for more docids.
    """
    index = docid_index(docids.encoded, docids.model.output_vocab_size)
    scale, shapes = docids.scale, _shapes_of(index)
    if scale == 1:
        return shapes
    fixed = {"first_tokens", "count", "layout", "vocab_size"}
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(DocidIndex):
        array = getattr(shapes, field.name)
        if field.name not in fixed and array is not None:
            changed[field.name] = _scaled(array, scale, axis=-1 if field.name == "row_nodes" else 0)
    layout = _scaled_layout(index.layout, index.num_docids, scale)
    for name in {"columns", "edge_tokens"} & set(changed):  # more documents may need wider integers
        changed[name] = jax.ShapeDtypeStruct(changed[name].shape, smallest_type(max(layout.spans) - 1))
    return dataclasses.replace(shapes, **changed, layout=layout)


def tree_shapes(docids: PlannedDocids) -> NodeTree | None:
    """Return the docid tree of the prefix head, with shapes instead of arrays; None for T5's head."""
    return training_tree_shapes(docids) if docids.searched.head == "prefix" else None


def training_tree_shapes(docids: PlannedDocids) -> NodeTree:
    """Return the docid tree, which training reads with the prefix head or a plan, with shapes instead of arrays."""
    tree = node_tree(docids.encoded)
    shapes = _shapes_of(tree)
    if docids.scale == 1:
        return shapes
    growing = ["child_nodes", "child_tokens", "lookahead_nodes", "lookahead_tokens"]
    growing += ["child_offsets"] if docids.codec.nodes == "table" else []
    fields: dict[str, Any] = {name: _scaled(getattr(shapes, name), docids.scale) for name in growing}
    if tree.root_fanout == docids.built:  # atomic docids: all documents are children of the root
        fields["lookahead_windows"] = _scaled(shapes.lookahead_windows, docids.scale)
        fields["fanouts"] = (docids.documents,)
    return dataclasses.replace(shapes, **fields)


def _shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


def _scaled(array: Any, scale: float, axis: int = 0) -> jax.ShapeDtypeStruct:
    shape = list(array.shape)
    shape[axis] = math.ceil(shape[axis] * scale)
    return jax.ShapeDtypeStruct(tuple(shape), array.dtype)


def _scaled_layout(layout: Layout, built: int, scale: float) -> Layout:
    def scaled(sizes: tuple[int, ...]) -> tuple[int, ...]:
        # Only atomic docids have as many rows or tokens at one depth as there are documents.
        return tuple(math.ceil(size * scale) if size >= built else size for size in sizes)

    return dataclasses.replace(
        layout,
        edges=scaled(layout.edges),
        rows=scaled(layout.rows),
        spans=scaled(layout.spans),
        capacity=Capacity(*(math.ceil(size * scale) for size in layout.capacity)),
    )
