"""Docids: every document's identifier, as codes of a strategy and as tokens of a codec."""

from genret_jax.docids.code_tree import EOS_CODE, ROOT
from genret_jax.docids.codec import DocidCodec, DocidTree, EncodedDocids
from genret_jax.docids.diagnostics import describe, summary_text
from genret_jax.docids.kmeans import Clustering, KMeans
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.docids.quantiser import Quantiser, append_documents, load_quantiser
from genret_jax.docids.strategies.arbitrary import AtomicDocids, NaiveStringDocids, RandomDocids
from genret_jax.docids.strategies.hierarchical import HierarchicalKMeans
from genret_jax.docids.strategies.learned import LearnedDocids
from genret_jax.docids.strategies.lsh import LshDocids
from genret_jax.docids.strategies.product import ProductQuantization
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.strategies.residual import ResidualKMeans
from genret_jax.docids.strategies.rq_vae import RqVae
from genret_jax.docids.strategies.stored import NpyDocids
from genret_jax.docids.strategy import DocidStrategy
from genret_jax.docids.table import DocidTable
from genret_jax.docids.tree_drawing import tree_text

__all__ = [
    "EOS_CODE",
    "ROOT",
    "AtomicDocids",
    "Clustering",
    "DocidCodec",
    "DocidStrategy",
    "DocidTable",
    "DocidTree",
    "EncodedDocids",
    "HierarchicalKMeans",
    "KMeans",
    "LearnedDocids",
    "LshDocids",
    "NaiveStringDocids",
    "NpyDocids",
    "PackedStrings",
    "ProductQuantization",
    "QuantisedDocids",
    "Quantiser",
    "RandomDocids",
    "ResidualKMeans",
    "RqVae",
    "append_documents",
    "describe",
    "load_quantiser",
    "summary_text",
    "tree_text",
]
