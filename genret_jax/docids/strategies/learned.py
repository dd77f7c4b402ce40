"""Docids learned with the model: the choices. What they mean is done where a run is prepared."""

import dataclasses
from typing import ClassVar

from genret_jax.validation import check_fields, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedDocids:
    """GenRet's: the network itself learns to write a document's docid (Sun et al. 2023, arXiv 2304.04171).

    One encoder-decoder reads documents and queries. Its state after the codes of a docid so far is compared with a
    codebook, and the nearest code is the next; a document and the queries that it answers shall get the same. The
    network is trained so while the run is prepared, and is then trained on docids and queries as any other. It is kept
    beside them, and gives documents that come later their docids.

    Documents of a batch are told from each other, so a batch is computed as a whole while docids are learned, whatever
    ``TrainerConfig.gradient_accumulation`` of the run is; and queries are shown from the first step on, whatever
    ``SamplerConfig.indexing_first`` is.

    Attributes:
        levels: Codes of a docid, but for the one that tells documents with equal codes apart.
        codebook: Codes of a level.
        steps: Training steps of each level, with the batch size and the optimiser of the run.
        alike: Documents of a batch that are drawn together from those with the same codes so far, and told from each
            other by the next code.
        progressive: Learn level by level, those before fixed. False learns all levels at once, in as many steps.
        balanced: Give documents of a batch codes so that all are used alike, and start codebooks from clusters of equal
            size. False takes the nearest code, and starts from ordinary k-means.
        document_length: Tokens that are read of a document when it gets its docid.
        reconstruction: Weight of the loss by which a code is to tell documents apart; that of retrieval is 1.
        commitment: Weight of the loss by which a document keeps to its code.
    """

    name: ClassVar[str] = "learned"
    levels: int = 3
    codebook: int = 64
    steps: int = 600
    alike: int = 16
    progressive: bool = True
    balanced: bool = True
    document_length: int = 64
    reconstruction: float = 0.2
    commitment: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "levels", self.levels >= 1, "at least 1")
        require(self, "codebook", self.codebook >= 2, "at least 2")
        require(self, "steps", self.steps >= 4, "at least 4")
        require(self, "alike", self.alike >= 2, "at least 2")
        require(self, "document_length", self.document_length >= 2, "at least 2")
        for name in ("reconstruction", "commitment"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
