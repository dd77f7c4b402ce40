"""Docids: every document's identifier, as codes of a strategy and as tokens of a codec."""

from genret_jax.docids.arbitrary import AtomicDocids, NaiveStringDocids
from genret_jax.docids.code_tree import EOS_CODE, ROOT
from genret_jax.docids.codec import DocidCodec, DocidTree, EncodedDocids
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.docids.table import DocidTable

__all__ = [
    "EOS_CODE",
    "ROOT",
    "AtomicDocids",
    "DocidCodec",
    "DocidTable",
    "DocidTree",
    "EncodedDocids",
    "NaiveStringDocids",
    "PackedStrings",
]
