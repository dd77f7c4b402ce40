"""Configuration of docids that are learned with the model; :mod:`genret_jax.docid_learning` learns them."""

import dataclasses
from typing import Annotated, ClassVar

from genret_jax.validation import at_least, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedDocids:
    """GenRet: the network itself learns to write the docids of documents (Sun et al. 2023, arXiv 2304.04171).

    One encoder-decoder reads documents and queries. At each level the decoder's state after the codes so far is
    compared with a codebook, and the nearest code is the next. A document and the queries that it answers learn to have
    the same codes. This happens while the run is prepared; the run then trains on these docids as on any others. The
    learned network is kept beside them, and gives later documents their docids.

    The losses compare the documents of a batch with each other. So a batch is computed as a whole while docids are
    learned, whatever ``TrainerConfig.gradient_accumulation`` of the run is. Queries are shown from the first step on,
    whatever ``SamplerConfig.indexing_first`` is.

    Attributes:
        levels: Number of codes of a docid, without the separating code.
        codebook: Number of codes of a level.
        steps: Training steps of each level, with the batch size and the optimiser of the run.
        alike: Number of documents of a batch that are drawn together from those with the same codes so far; the next
            code has to tell them apart.
        progressive: Learn level by level, with the earlier levels fixed. False learns all levels at once, in as many
            steps.
        balanced: Give the documents of a batch codes so that all codes are used alike, and start codebooks from
            clusters of equal size. False takes the nearest code, and starts from ordinary k-means.
        document_length: Number of tokens that are read of a document to give it its docid.
        reconstruction: Weight of the loss that makes codes tell documents apart; the weight of retrieval is 1.
        commitment: Weight of the loss that keeps a document close to its code.
    """

    name: ClassVar[str] = "learned"
    levels: Annotated[int, at_least(1)] = 3
    codebook: Annotated[int, at_least(2)] = 64
    steps: Annotated[int, at_least(4)] = 600
    alike: Annotated[int, at_least(2)] = 16
    progressive: bool = True
    balanced: bool = True
    document_length: Annotated[int, at_least(2)] = 64
    reconstruction: Annotated[float, at_least(0)] = 0.2
    commitment: Annotated[float, at_least(0)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
