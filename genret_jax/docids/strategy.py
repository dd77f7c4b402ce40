"""The interface of docid strategies, for those who write their own."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from genret_jax.docids.table import DocidTable


@runtime_checkable
class DocidStrategy(Protocol):
    """Assigns docids to documents or items.

    Every class with this method is a strategy. To be named in a configuration it must also be a frozen dataclass at
    the top level of a module; its fields are then bound in gin files and recorded in run folders::

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class DocidsByLength:
            longest: int = 50

            def assign(self, doc_ids, vectors, seed, corpus_fingerprint):
                codes = [(min(len(doc_id), self.longest), number) for number, doc_id in enumerate(doc_ids)]
                return DocidTable.from_codes(
                    doc_ids, codes, strategy={"name": "length"}, corpus_fingerprint=corpus_fingerprint
                )

    A strategy that reads the document vectors has the class attribute ``needs_vectors = True``, annotated as
    ``ClassVar[bool]``. Without the attribute it is False: no vectors are computed, and ``assign`` gets None.
    """

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document at least one docid.

        The result depends on the arguments only: processes that prepare the same run must make the same docids.

        Args:
            doc_ids: External ids of the documents, distinct.
            vectors: One vector per document, [n, d], possibly memory-mapped; None if ``needs_vectors`` is False.
            seed: Seed of every random choice.
            corpus_fingerprint: Fingerprint of the corpus, to be stored in the table.

        Returns:
            A table of these documents in their order (:meth:`DocidTable.from_codes`).

        Raises:
            InputError: If the vectors do not fit the documents.
        """
        ...
