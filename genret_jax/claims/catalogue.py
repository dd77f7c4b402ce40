"""The papers' claims, and the runs that test them: gin files with bindings, as anyone would train them.

The papers' figures are Hits@1 in per cent on Natural Questions: DSI (Tay et al. 2022, arXiv 2202.06991), NCI (Wang
et al. 2022, arXiv 2206.02743, its first version) and GenRet (Sun et al. 2023, arXiv 2304.04171).
"""

import dataclasses
from typing import Any

# Macros whose values depend on the corpus and the budget.
CODEBOOK, HALF, LEARNING = "%CODEBOOK", "%HALF", "%LEARNING"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """The configuration of a run.

    Attributes:
        file: Gin file of the run.
        bindings: Gin bindings after the file; later ones override earlier ones.
        generated: Whether the corpus has generated queries.
        share: Share of the documents on which the run is trained and evaluated.
        searched_as: Name of another arm: instead of training a run, that arm's run is searched without constraint.
        more_levels: Train for additional steps, equal to the cost of learning this many levels of docids.
    """

    file: str = "runs/from_scratch.gin"
    bindings: tuple[str, ...] = ()
    generated: bool = False
    share: float = 1.0
    searched_as: str | None = None
    more_levels: int = 0

    def changed(self, *bindings: str, **fields: object) -> "Arm":
        """Return a copy of the arm with further bindings and with other fields."""
        copy: Arm = dataclasses.replace(self, bindings=(*self.bindings, *bindings), **fields)  # type: ignore[arg-type]
        return copy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim that one arm is better than another.

    Attributes:
        system: Name of the paper's system.
        text: The claim in words.
        paper: Figures of the paper for the two arms.
        better: Name of the arm that should be better.
        worse: Name of the other arm.
        split: Queries that are compared: ``"test"``, ``"unseen"`` (of documents without training queries) or
            ``"documents"`` (each document is the query for its own docid).
        margin: Smallest difference in MRR@10; below zero if the claim is that ``better`` is not worse.
    """

    system: str
    text: str
    paper: str
    better: str
    worse: str
    split: str = "test"
    margin: float = 0.0


_NO_NOISE = (
    "SamplerConfig.word_drop = 0.0",
    "SamplerConfig.query_word_drop = 0.0",
    "SamplerConfig.resegmentation = 0.0",
)
# The paper's DSI: random weights, no pseudo-queries, and three indexing examples per retrieval example.
_DSI = Arm(
    bindings=(
        *_NO_NOISE,
        "T5Config.encoder_final_norm = True",
        "Experiment.start = None",
        "VocabularyConfig.extra_ids = 100",
        "SamplerConfig.indexing_rate = 3.0",
        "SamplerConfig.pseudo_query_rate = 0.0",
        "SamplerConfig.retrieval_rate = 1.0",
        "SamplerConfig.input_length = 32",
        "LinearWarmupLinearDecay.peak = 1e-3",
    )
)
_SEMANTIC = _DSI.changed(
    "Experiment.docids = @HierarchicalKMeans()",
    "HierarchicalKMeans.branching = 10",
    "HierarchicalKMeans.leaf_size = 10",
)
_NAIVE, _ATOMIC = "Experiment.docids = @NaiveStringDocids()", "Experiment.docids = @AtomicDocids()"
_RANDOM = ("Experiment.docids = @RandomDocids()", "RandomDocids.levels = 2", f"RandomDocids.codebook = {CODEBOOK}")
_NCI = Arm(
    file="runs/nci_from_scratch.gin",
    generated=True,
    bindings=("SamplerConfig.generated_query_rate = 1.0", "SamplerConfig.input_length = 32"),
)
_HIDDEN = "SamplerConfig.unseen_split = 'unseen'"
_GENRET = Arm(
    file="runs/genret_from_scratch.gin",
    bindings=(
        _HIDDEN,
        "LearnedDocids.levels = 2",
        f"LearnedDocids.codebook = {CODEBOOK}",
        f"LearnedDocids.steps = {LEARNING}",
    ),
)

ARMS: dict[str, Arm] = {
    "dsi": _SEMANTIC,
    "dsi-targets-to-inputs": _SEMANTIC.changed("SamplerConfig.objective = 'targets_to_inputs'"),
    "dsi-span-corruption": _SEMANTIC.changed("SamplerConfig.objective = 'span_corruption'"),
    "dsi-no-indexing": _SEMANTIC.changed("SamplerConfig.indexing_rate = 0.0"),
    "dsi-indexing-first": _SEMANTIC.changed(f"SamplerConfig.indexing_first = {HALF}"),
    "dsi-set": _SEMANTIC.changed("SamplerConfig.representation = 'set'"),
    "dsi-inverted": _SEMANTIC.changed("SamplerConfig.representation = 'inverted'"),
    "dsi-naive": _DSI.changed(_NAIVE),
    "dsi-atomic": _DSI.changed(_ATOMIC),
    "dsi-random": _DSI.changed(*_RANDOM),
    "dsi-quarter": _SEMANTIC.changed(share=0.25),
    "dsi-naive-quarter": _DSI.changed(_NAIVE, share=0.25),
    "dsi-atomic-quarter": _DSI.changed(_ATOMIC, share=0.25),
    "nci": _NCI,
    "nci-no-queries": _NCI.changed("SamplerConfig.pseudo_query_rate = 0.0", generated=False),
    "nci-no-pawa": _NCI.changed("T5Config.adaptive_layers = 0", "T5Config.adaptive_width = None"),
    "nci-no-consistency": _NCI.changed("Experiment.consistency = 0.0"),
    "nci-naive": _NCI.changed(_NAIVE),
    "nci-unconstrained": _NCI.changed(searched_as="nci"),
    "genret": _GENRET,
    "genret-kmeans": Arm(
        file="runs/nci_from_scratch.gin",
        more_levels=2,
        bindings=(
            _HIDDEN,
            "T5Config.adaptive_layers = 0",
            "T5Config.adaptive_width = None",
            "Experiment.consistency = 0.0",
            "Experiment.docids = @ResidualKMeans()",
            "ResidualKMeans.levels = 2",
            f"ResidualKMeans.codebook = {CODEBOOK}",
        ),
    ),
    "genret-at-once": _GENRET.changed("LearnedDocids.progressive = False"),
    "genret-unbalanced": _GENRET.changed("LearnedDocids.balanced = False"),
}


def _claims(system: str, *rows: tuple[Any, ...]) -> tuple[Claim, ...]:
    """Return the claims of a paper from rows of text, paper's figures, better arm, worse arm, and other fields."""
    return tuple(
        Claim(system=system, text=text, paper=paper, better=better, worse=worse, **dict(*fields))
        for text, paper, better, worse, *fields in rows
    )


# fmt: off
CLAIMS: tuple[Claim, ...] = (
    *_claims(
        "DSI",
        ("Indexing asks for the docid of a document, not for the document of a docid",
         "13.5 against 0", "dsi", "dsi-targets-to-inputs"),
        ("... nor for masked spans of both", "13.5 against 0", "dsi", "dsi-span-corruption"),
        ("Retrieval needs indexing", "13.5 against 0", "dsi", "dsi-no-indexing"),
        ("Indexing and retrieval together, not indexing first", "far better", "dsi", "dsi-indexing-first"),
        ("First tokens are indexed as well as a set of words", "better", "dsi", "dsi-set"),
        ("First tokens are indexed as well as random chunks", "better", "dsi", "dsi-inverted"),
        ("Semantic docids, not naive ones, in a large corpus", "27.4 against 6.7 (320K)", "dsi", "dsi-naive"),
        ("Semantic docids, not naive ones, in a quarter of it",
         "33.9 against 28.1 (10K)", "dsi-quarter", "dsi-naive-quarter"),
        ("Semantic docids, not atomic ones, in a large corpus", "27.4 against 20.7 (320K)", "dsi", "dsi-atomic"),
        ("Semantic docids, not atomic ones, in a quarter of it",
         "33.9 against 13.0 (10K)", "dsi-quarter", "dsi-atomic-quarter"),
        ("Random docids are memorised as well as semantic ones",
         "40.0 against 45.4 (others')", "dsi-random", "dsi", {"split": "documents", "margin": -0.1}),
        ("... but do not carry over to documents without queries",
         "0 (others')", "dsi", "dsi-random", {"split": "unseen"}),
    ),
    *_claims(
        "NCI",
        ("Generated queries", "88.7 against 53.6", "nci", "nci-no-queries"),
        ("The prefix-aware decoder", "88.7 against 87.0", "nci", "nci-no-pawa"),
        ("Consistency", "88.7 against 87.3", "nci", "nci-no-consistency"),
        ("Semantic docids", "88.7 against 87.2", "nci", "nci-naive"),
        ("Search among docids only", "88.7 against 87.4", "nci", "nci-unconstrained"),
    ),
    *_claims(
        "GenRet",
        ("Learned docids, not those of k-means, for documents with queries", "better", "genret", "genret-kmeans"),
        ("... and for documents that came later",
         "62.5 against 1.3 (DSI)", "genret", "genret-kmeans", {"split": "unseen"}),
        ("Level by level, not all at once", "better", "genret", "genret-at-once"),
        ("Balanced codes, not the nearest", "better", "genret", "genret-unbalanced"),
    ),
)
# fmt: on
