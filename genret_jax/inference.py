"""From a network and a docid index to ranked documents, for tokenised requests.

Models and decoding, which know nothing of each other, meet here.
"""

import contextlib
import copy
import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from genret_jax.decoding import (
    BeamResult,
    DocidIndex,
    Exhaustive,
    RankedDocuments,
    Strategy,
    TrieConstraint,
    allow,
    beam_search,
    rank_documents,
    sample_tokens,
    with_share,
)
from genret_jax.docids import EncodedDocids
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.folding import folded
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5
from genret_jax.models.plan import PlanTables
from genret_jax.parallel.mesh import DATA, mesh_of, on_all_devices, placed_on

_R = TypeVar("_R", bound="Ranker")


class Ranker:
    """A network with the docids it may write.

    Args:
        model: The network.
        docids: The docids of all documents.
        params: Parameters of the network. If they are spread over a mesh, it searches on that mesh.
        plan: What the network's plan knows about the docids; None without a plan.
    """

    # Process that loaded the first model. XLA's threads do not survive a fork, and a search would hang.
    _loaded_by: ClassVar[int | None] = None

    def __init__(
        self, model: T5Config, docids: EncodedDocids, params: Mapping[str, Any], plan: PlanTables | None = None
    ):
        Ranker._loaded_by = Ranker._loaded_by or os.getpid()
        self._model, self._docids = model, docids
        self._documents = int(docids.document.max()) + 1
        self._mesh = mesh_of(params)
        self.index: DocidIndex = on_all_devices(docid_index(docids, model.output_vocab_size), self._mesh)
        by_nodes = model.head == "prefix" or model.adaptive_layers
        self._tree = on_all_devices(node_tree(docids), self._mesh) if by_nodes else None
        self._plan = on_all_devices(plan, self._mesh) if plan is not None else None
        self._params = jax.tree.map(_committed, params)
        self._searched: tuple[Mapping[str, Any], T5Config] | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the model, on the device."""
        return self._params

    @property
    def docid_bytes(self) -> dict[str, int]:
        """Size of what a search keeps in memory about the docids, beside the parameters, by part."""
        parts = {"docid index": self.index, "docid tree": self._tree, "plan": self._plan}
        if self._model.adaptive_layers:
            parts["vectors of prefixes"] = self._network()[0]["decoder"]["prefix_head"]
        return {name: sum(leaf.nbytes for leaf in jax.tree.leaves(part)) for name, part in parts.items()}

    def with_params(self: _R, params: Mapping[str, Any]) -> _R:
        """Return the same with other parameters; on the same devices nothing is compiled anew."""
        other = copy.copy(self)
        other._params, other._searched = jax.tree.map(_committed, params), None
        if (mesh := mesh_of(params)) != self._mesh:
            other._mesh = mesh
            other.index, other._tree, other._plan = on_all_devices((self.index, self._tree, self._plan), mesh)
        return other

    def rank(
        self,
        tokens: Int[np.ndarray, "q l"],
        *,
        beam: int,
        limit: int | None = None,
        batch_size: int = 64,
        allowed: Bool[np.ndarray, "#q n"] | None = None,
        without: Int[np.ndarray, "q w"] | None = None,
        widths: Sequence[int] = (),
        progress: bool = False,
    ) -> RankedDocuments:
        """Rank documents for tokenised requests.

        Args:
            tokens: Requests, padded with 0.
            beam: Beams of the search.
            limit: Largest number of documents per request; ``beam`` when left out.
            batch_size: Requests searched together.
            allowed: Documents that each request may find, or one row for all requests; all when left out.
            without: Documents that each request must not find, -1 for none. It takes less memory than ``allowed``.
            widths: Columns that requests may be cut to where the rest is padding, so that short ones cost less. The
                terms that a plan reads are kept, and do not count.
            progress: Show a progress bar on stderr.

        Returns:
            Document indices with scores, ``[q, limit]``.

        Raises:
            InputError: If there are no requests.
        """
        from tqdm import tqdm

        if not len(tokens):
            raise InputError("no queries to search", fix="give at least one query")
        found: RankedDocuments | None = None
        met_nan = 0
        differs = without is not None or (allowed is not None and len(allowed) > 1)
        shared = None if allowed is None or differs else allow(self.index, allowed)
        texts, terms = np.split(tokens, [tokens.shape[1] - self._model.plan_terms], axis=1)
        batches = list(_batches(texts, batch_size, widths))
        for rows, width in tqdm(batches, desc="searching", unit="batch", disable=not progress, leave=False, delay=2):
            # A few sizes only, so that a changing number of queries does not compile again and again.
            size = min(batch_size, 1 << (len(rows) - 1).bit_length())
            size += -size % (1 if self._mesh is None else self._mesh.shape[DATA])
            mine, chosen = allowed, shared
            if differs:
                mine = _with_rows(_allowed_to(rows, allowed, without, self._documents), size)
                chosen = allow(self.index, mine)
            padded = _with_rows(np.concatenate([texts[rows, :width], terms[rows]], axis=1), size)
            result = jax.device_get(self._found(padded, TrieConstraint(self.index, chosen), beam))
            met_nan += int(result.has_nan[: len(rows)].sum())
            ranked = rank_documents(result, self.index, limit=limit, allowed=mine)
            if found is None:
                found = RankedDocuments(*(np.empty((len(tokens), part.shape[1]), part.dtype) for part in ranked))
            for whole, part in zip(found, ranked, strict=True):
                whole[rows] = part[: len(rows)]
        if met_nan:
            warnings.warn(
                f"the network gave NaN for {met_nan} of {len(tokens)} requests, and their results mean little; take an "
                "earlier checkpoint, or train with a lower learning rate",
                stacklevel=3,
            )
        assert found is not None
        return found

    def rank_with_share(
        self,
        tokens: Int[np.ndarray, "q l"],
        share: float | None,
        new: Bool[np.ndarray, " n"] | None,
        *,
        limit: int,
        allowed: Bool[np.ndarray, "#q n"] | None = None,
        **options: Any,
    ) -> RankedDocuments:
        """Rank documents so that a share of the results are new ones (TIGER's epsilon, arXiv 2305.05065, section 4.3).

        Known and new documents are searched apart, so scores need not descend.

        Args:
            tokens: Requests, padded with 0.
            share: Share of the results that are new documents, from 0 to 1; None ranks all documents by their scores.
            new: Which documents are new; None without a share.
            limit: Largest number of documents per request.
            allowed: As in :meth:`rank`.
            **options: Further options of :meth:`rank`.

        Raises:
            InputError: If the share is none.
        """
        if share is None or new is None:
            return self.rank(tokens, limit=limit, allowed=allowed, **options)
        if not 0 <= share <= 1:
            raise InputError(f"new_items={share}", expected="a share from 0 to 1")
        everything = np.ones((1, self._documents), bool) if allowed is None else allowed
        known = self.rank(tokens, limit=limit, allowed=everything & ~new[None], **options)
        if share == 0:
            return known
        found = self.rank(tokens, limit=limit, allowed=everything & new[None], **options)
        return with_share(known, found, share, limit)

    def beside_exhaustive(self, tokens: Int[np.ndarray, "q l"], *, beam: int, k: int = 10) -> dict[str, float]:
        """Compare the beam search with the exhaustive one; costs a decoder pass over all docids for each query.

        Args:
            tokens: Queries, padded with 0.
            beam: Beams of the search.
            k: Results that are compared.

        Returns:
            ``certified``: the share of queries whose first k results are provably the model's best;
            ``found``: the share of the model's best k docids that the beam search found.
        """
        k = min(k, beam, self.index.num_docids)
        found = self._found(tokens, TrieConstraint(self.index), beam)
        if self._plan is None:
            exact = self._found(tokens, Exhaustive.of(self.index), k)
        else:  # a search with as many beams as docids is exhaustive
            exact = self._found(tokens, TrieConstraint(self.index), self.index.num_docids)
        certified = np.asarray(found.certified_first(k))
        first, best = np.asarray(found.docids)[:, :k], np.asarray(exact.docids)[:, :k]
        return {
            "certified": float(certified.mean()),
            "found": float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(first, best, strict=True)])),
        }

    def _found(self, tokens: Int[np.ndarray, "q l"], strategy: TrieConstraint | Exhaustive, beam: int) -> BeamResult:
        if os.getpid() != Ranker._loaded_by:
            raise InputError(
                "this process was forked after a model was loaded, and would hang",
                fix="load the model in each process, or start them by multiprocessing.get_context('spawn')",
            )
        with contextlib.nullcontext() if self._mesh is None else placed_on(self._mesh):
            params, config = self._network()
            return search_tokens(params, tokens, strategy, self._tree, config, beam, self._plan)

    def _network(self) -> tuple[Mapping[str, Any], T5Config]:
        """Return the network that is searched with: an adaptive decoder's vectors of all docids are computed once."""
        if self._searched is None:
            config, docids = self._model, self._docids
            self._searched = self._params, config
            if config.adaptive_layers:
                assert self._tree is not None
                params, config = folded(
                    self._params,
                    config,
                    self._tree,
                    tokens=docids.tokens,
                    prefix_nodes=docids.prefix_nodes,
                    node_tokens=docids.tree.node_token,
                )
                head = on_all_devices(params["decoder"]["prefix_head"], self._mesh)
                self._searched = {**params, "decoder": {**params["decoder"], "prefix_head": head}}, config
        return self._searched


def _committed(leaf: jax.Array | np.ndarray) -> jax.Array:
    """Return a parameter on a device for good, as restored ones are: programs of others are compiled for themselves."""
    if isinstance(leaf, jax.Array) and leaf.committed:
        return leaf
    return jax.device_put(leaf, jax.local_devices()[0])


def _batches(
    tokens: Int[np.ndarray, "q l"], size: int, widths: Sequence[int]
) -> Iterator[tuple[Int[np.ndarray, " r"], int]]:
    """Yield rows of queries that fit the same width, at most so many together, and that width."""
    allowed = np.unique([*(width for width in widths if width < tokens.shape[1]), tokens.shape[1]])
    needed = tokens.shape[1] - np.argmax(tokens[:, ::-1] > 0, axis=1)
    fits = np.searchsorted(allowed, needed)
    for choice, width in enumerate(allowed.tolist()):
        rows = np.flatnonzero(fits == choice)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], width


def _allowed_to(
    rows: Int[np.ndarray, " r"],
    allowed: Bool[np.ndarray, "#q n"] | None,
    without: Int[np.ndarray, "q w"] | None,
    documents: int,
) -> Bool[np.ndarray, "r n"]:
    mask = np.ones((len(rows), documents + 1), bool)  # -1, for none, is the last column
    if allowed is not None:
        mask[:, :documents] = allowed if len(allowed) == 1 else allowed[rows]
    if without is not None:
        mask[np.arange(len(rows))[:, None], without[rows]] = False
    return mask[:, :documents]


def _with_rows(array: np.ndarray, rows: int) -> np.ndarray:
    return array if len(array) == rows else np.pad(array, ((0, rows - len(array)), (0, 0)))


def node_tree(docids: EncodedDocids, documents: Bool[np.ndarray, " n"] | None = None) -> NodeTree:
    """Return the docid tree, or that of some documents, as device arrays of the prefix head."""
    tree = docids.tree if documents is None else docids.tree_of(documents)
    return NodeTree.build(tree.child_offsets, tree.child_nodes, tree.child_tokens)


def docid_index(docids: EncodedDocids, vocab_size: int) -> DocidIndex:
    """Return the index to search; its documents and nodes are those of the docids."""
    return DocidIndex.build(docids.tokens, docids.lengths, docids.document, docids.prefix_nodes, vocab_size=vocab_size)


@functools.partial(jax.jit, static_argnames=("config", "beams"))
def search_tokens(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    strategy: Strategy | Exhaustive,
    tree: NodeTree | None,
    config: T5Config,
    beams: int,
    plan: PlanTables | None = None,
) -> BeamResult:
    """Encode queries and search for their docids, in one program.

    Args:
        params: Parameters of the network.
        tokens: Queries, padded with 0.
        strategy: The docids and how to search them, or the length of unconstrained results.
        tree: The docid tree; for the prefix head.
        config: Configuration of the network.
        beams: Results per query.
        plan: What the network's plan knows about the docids of a ``TrieConstraint``; None searches without it.
    """
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, strategy.max_length, method=T5.init_cache)
    if plan is not None and isinstance(strategy, TrieConstraint):
        strategy = strategy.planned(model.apply(variables, encoded, tokens, plan, method=T5.plan_scores))

    def step(tokens: Array, prefix_nodes: Array, cache: Any, *, first: bool) -> tuple[Array, Any]:
        # The cache itself says whether this is the first step (T5.init_cache).
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.step)

    def forced(tokens: Array, prefix_nodes: Array, cache: Any) -> Array:
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.forced)

    return beam_search(step, cache, strategy, batch=tokens.shape[0], beams=beams, forced=forced)


@functools.partial(jax.jit, static_argnames=("config", "written", "samples", "length", "top_k", "temperature"))
def sample_texts(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    key: jax.Array,
    *,
    config: T5Config,
    written: int,
    samples: int,
    length: int,
    top_k: int,
    temperature: float,
) -> Int[Array, "b n length"]:
    """Encode texts and sample the texts that the decoder writes for them, in one program.

    Args:
        params: Parameters of the network.
        tokens: Texts, padded with 0.
        key: Random key.
        config: The network's shape, with the vocabulary head.
        written: Only tokens below this number may be written.
        samples: Samples per text, n.
        length: Most tokens of a sample.
        top_k: Number of next tokens to draw from.
        temperature: Logits are divided by it.
    """
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, length, method=T5.init_cache)

    def step(tokens: Array, prefix_nodes: Array, cache: Any, *, first: bool) -> tuple[Array, Any]:
        return model.apply(variables, tokens, None, cache, columns=(0, written), method=T5.step)

    return sample_tokens(
        step, cache, key, batch=len(tokens), samples=samples, length=length, top_k=top_k, temperature=temperature
    )
