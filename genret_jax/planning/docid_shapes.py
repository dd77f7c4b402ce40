"""Docids of a corpus that is not there: as many as it has documents, spread as evenly as their strategy allows."""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Int32

from genret_jax.config.experiment import Experiment
from genret_jax.docids import (
    AtomicDocids,
    DocidCodec,
    DocidTable,
    EncodedDocids,
    HierarchicalKMeans,
    LearnedDocids,
    LshDocids,
    NaiveStringDocids,
    NpyDocids,
    RandomDocids,
    ResidualKMeans,
    RqVae,
)
from genret_jax.docids.strategies.arbitrary import digits
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.folding import folded_shape
from genret_jax.problems.sizing import document_codec, document_network

#: Of more documents than this, whole subtrees of the docids stand for all.
MOST_BUILT = 1_000_000
Codes = tuple[Int32[np.ndarray, "n m"], list[int]]
_T5_VOCABULARY = 32_100  # of T5's SentencePiece model with its 100 sentinels
_BYTE_VOCABULARY = 259  # ByT5's padding, EOS and unknown beside the bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedDocids:
    """The docids of a plan, and the network that writes them.

    Attributes:
        documents: Of the corpus.
        encoded: Docids that were made, of all documents or of some whole subtrees.
        codec: How they became tokens.
        nodes: Of the tree of all documents.
        model: The network, sized for all documents.
    """

    documents: int
    encoded: EncodedDocids
    codec: DocidCodec
    nodes: int
    model: T5Config

    @property
    def searched(self) -> T5Config:
        """The network that is searched with."""
        return folded_shape(self.model, self.nodes)

    @property
    def built(self) -> int:
        """Documents that docids were made for."""
        return len(self.encoded.lengths)

    @property
    def scale(self) -> float:
        """How many documents each of these stands for."""
        return self.documents / self.built

    @property
    def length(self) -> int:
        """Tokens of the longest docid."""
        return int(self.encoded.tokens.shape[1])


def planned_docids(experiment: Experiment, documents: int | None, most: int = MOST_BUILT) -> PlannedDocids:
    """Return the docids that an experiment would give so many documents.

    Clusters are taken to be of equal size, codes of residual quantisation to be uniform; trees that k-means makes of
    real documents are less even, so somewhat deeper.

    Args:
        experiment: Its ``docids``, ``codec``, ``vocabulary`` and ``model`` count.
        documents: Of the corpus; None where ``docids`` is a saved table.
        most: Docids to make at most.

    Raises:
        InputError: If the number is missing, below 2, or not that of the table.
    """
    if isinstance(experiment.docids, str):
        table = DocidTable.load(experiment.docids)
        if documents not in (None, table.num_documents):
            raise InputError(
                f"--documents {documents}",
                expected=f"the {table.num_documents} of the table {experiment.docids}",
                fix="leave --documents out",
            )
        documents = table.num_documents
    elif documents is None or documents < 2:
        raise InputError(
            "--documents is missing" if documents is None else f"--documents {documents}",
            expected="the number of documents to plan for, at least 2",
            fix="add --documents N",
        )
    else:
        codes, level_sizes = planned_codes(experiment.docids, documents, most)
        names = [str(number) for number in range(len(codes))]
        table = DocidTable.from_codes(names, codes, level_sizes=level_sizes, strategy={}, corpus_fingerprint="")
    text_tokens = text_vocabulary_size(experiment)
    # A text docid is taken to be a token a character.
    codec = document_codec(experiment, table, text_tokens, lambda text: [2 + ord(character) % 64 for character in text])
    encoded = codec.encode(table)
    nodes = encoded.tree.num_nodes
    if codec.nodes == "table":  # numbered as tokens, they are those of all documents already
        nodes = math.ceil(nodes * documents / len(encoded.lengths))
    model = document_network(experiment, text_tokens, codec, nodes)
    return PlannedDocids(documents=documents, encoded=encoded, codec=codec, nodes=nodes, model=model)


def text_vocabulary_size(experiment: Experiment) -> int:
    """Return the size of the text vocabulary: as configured, or T5's where it is a file."""
    wanted = experiment.vocabulary
    sizes = {"sentencepiece": wanted.size, "bytes": _BYTE_VOCABULARY}
    return sizes[wanted.kind] + wanted.extra_ids if wanted.kind in sizes else _T5_VOCABULARY


def planned_codes(strategy: Any, documents: int, most: int) -> Codes:
    """Return codes, padded with -1, of all documents or of whole subtrees of at most ``most``; and the level sizes."""
    if isinstance(strategy, AtomicDocids):
        return np.arange(min(documents, most), dtype=np.int32)[:, None], [documents]
    if isinstance(strategy, NaiveStringDocids):
        numbers = np.arange(max(0, documents - most), documents)
        return digits(numbers), [10] * len(str(documents - 1))
    if isinstance(strategy, HierarchicalKMeans):
        return _clustered(strategy, documents, most)
    if isinstance(strategy, NpyDocids):
        return _stored(strategy, documents)
    return _quantised(strategy, documents, most)


def _stored(strategy: NpyDocids, documents: int) -> Codes:
    """Return the codes of a file, which are there already."""
    names = [str(number) for number in range(documents)]
    with warnings.catch_warnings():  # of shared docids: preparing the run says that
        warnings.simplefilter("ignore")
        table = strategy.assign(names, None, seed=0, corpus_fingerprint="")
    return table.padded(), list(table.level_sizes)


def _clustered(strategy: HierarchicalKMeans, documents: int, most: int) -> Codes:
    """Return paths through clusters of equal size, with the position in the last."""
    branching, depth = strategy.branching, 0
    while math.ceil(documents / branching**depth) > strategy.leaf_size:
        depth += 1
    clusters = branching**depth
    kept = max(1, min(clusters, clusters * most // documents))
    if branching <= kept < clusters:
        # From under every first code, so that the root keeps its children.
        each = kept // branching
        numbers = (np.arange(branching)[:, None] * (clusters // branching) + np.arange(each)).reshape(-1)
    else:
        numbers = np.arange(kept)
    sizes = documents // clusters + (numbers < documents % clusters)
    cluster = np.repeat(numbers, sizes)
    position = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    path = [cluster // branching ** (depth - 1 - level) % branching for level in range(depth)]
    return np.stack([*path, position], 1).astype(np.int32), [*[branching] * depth, strategy.leaf_size]


def _quantised(
    strategy: ResidualKMeans | RqVae | LearnedDocids | LshDocids | RandomDocids, documents: int, most: int
) -> Codes:
    """Return uniform codes, told apart by a last one where the strategy does so."""
    allowed, share = [strategy.codebook] * strategy.levels, 1.0
    for level in range(1, strategy.levels):
        wanted = documents * share / most
        if wanted > 1:
            allowed[level] = max(1, int(strategy.codebook / wanted))
            share *= allowed[level] / strategy.codebook
    random = np.random.default_rng(0)
    count = max(1, int(documents * share))
    codes = np.stack([random.integers(0, size, count) for size in allowed], 1)
    level_sizes = [strategy.codebook] * strategy.levels
    if isinstance(strategy, LearnedDocids) or strategy.separate:
        codes = codes[np.lexsort(codes.T[::-1])]
        begins = np.flatnonzero(np.r_[True, (codes[1:] != codes[:-1]).any(1)])
        sizes = np.diff(begins, append=count)
        codes = np.column_stack([codes, np.arange(count) - np.repeat(begins, sizes)])
        level_sizes.append(int(sizes.max()))
    return codes.astype(np.int32), level_sizes
