"""The claims, and the runs that decide them: gin files with bindings, as anyone would train them.

Figures of the papers are Hits@1, in per cent, on Natural Questions: DSI (Tay et al. 2022, arXiv 2202.06991), NCI (Wang
et al. 2022, arXiv 2206.02743, its first version) and GenRet (Sun et al. 2023, arXiv 2304.04171).
"""

import dataclasses

# Macros that the corpus and the budget decide.
CODEBOOK, HALF, LEARNING = "%CODEBOOK", "%HALF", "%LEARNING"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A run.

    Attributes:
        file: Its gin file.
        bindings: In the order in which they are made; a later one wins.
        generated: Whether its corpus has generated queries.
        share: Of the documents that it is trained and asked on.
        searched_as: Another arm, whose run is searched without constraint instead of training one.
        more_levels: Train for as many steps more as learned docids of so many levels take.
    """

    file: str = "runs/dsi_semantic_from_scratch.gin"
    bindings: tuple[str, ...] = ()
    generated: bool = False
    share: float = 1.0
    searched_as: str | None = None
    more_levels: int = 0

    def but(self, *bindings: str, **fields: object) -> "Arm":
        """Return the arm with other bindings, or other fields."""
        changed: Arm = dataclasses.replace(self, bindings=(*self.bindings, *bindings), **fields)  # type: ignore[arg-type]
        return changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """That one run is better than another.

    Attributes:
        system: Of which paper.
        text: What is claimed.
        paper: What the paper reports for the two.
        better: The arm that should be better.
        worse: The other.
        split: Where: ``"test"``, ``"unseen"`` (documents without training queries) or ``"documents"`` (each the query
            for its own docid).
        margin: By how much, in MRR@10; below zero where it is claimed not to be worse.
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
# The paper's DSI, which knows nothing of the corpus at first and has no pseudo-queries; 3 indexing examples to 1.
_DSI = Arm(
    bindings=(
        *_NO_NOISE,
        "T5Config.head = 'vocabulary'",
        "T5Config.root_lookahead = False",
        "T5Config.lexical_width = 0",
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
_SEMANTIC = _DSI.but("HierarchicalKMeans.branching = 10", "HierarchicalKMeans.leaf_size = 10")
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
    "dsi-targets-to-inputs": _SEMANTIC.but("SamplerConfig.objective = 'targets_to_inputs'"),
    "dsi-span-corruption": _SEMANTIC.but("SamplerConfig.objective = 'span_corruption'"),
    "dsi-no-indexing": _SEMANTIC.but("SamplerConfig.indexing_rate = 0.0"),
    "dsi-indexing-first": _SEMANTIC.but(f"SamplerConfig.indexing_first = {HALF}"),
    "dsi-set": _SEMANTIC.but("SamplerConfig.representation = 'set'"),
    "dsi-inverted": _SEMANTIC.but("SamplerConfig.representation = 'inverted'"),
    "dsi-naive": _DSI.but(_NAIVE),
    "dsi-atomic": _DSI.but(_ATOMIC),
    "dsi-random": _DSI.but(*_RANDOM),
    "dsi-quarter": _SEMANTIC.but(share=0.25),
    "dsi-naive-quarter": _DSI.but(_NAIVE, share=0.25),
    "dsi-atomic-quarter": _DSI.but(_ATOMIC, share=0.25),
    "nci": _NCI,
    "nci-no-queries": _NCI.but("SamplerConfig.pseudo_query_rate = 0.0", generated=False),
    "nci-no-pawa": _NCI.but("T5Config.adaptive_layers = 0", "T5Config.adaptive_width = None"),
    "nci-no-consistency": _NCI.but("Experiment.consistency = 0.0"),
    "nci-naive": _NCI.but(_NAIVE),
    "nci-unconstrained": _NCI.but(searched_as="nci"),
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
    "genret-at-once": _GENRET.but("LearnedDocids.progressive = False"),
    "genret-unbalanced": _GENRET.but("LearnedDocids.balanced = False"),
}

_A, _B, _C = "DSI", "NCI", "GenRet"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        system=_A,
        text="Indexing asks for the docid of a document, not for the document of a docid",
        paper="13.5 against 0",
        better="dsi",
        worse="dsi-targets-to-inputs",
    ),
    Claim(
        system=_A,
        text="... nor for masked spans of both",
        paper="13.5 against 0",
        better="dsi",
        worse="dsi-span-corruption",
    ),
    Claim(system=_A, text="Retrieval needs indexing", paper="13.5 against 0", better="dsi", worse="dsi-no-indexing"),
    Claim(
        system=_A,
        text="Indexing and retrieval together, not indexing first",
        paper="far better",
        better="dsi",
        worse="dsi-indexing-first",
    ),
    Claim(
        system=_A,
        text="First tokens are indexed as well as a set of words",
        paper="better",
        better="dsi",
        worse="dsi-set",
    ),
    Claim(
        system=_A,
        text="First tokens are indexed as well as random chunks",
        paper="better",
        better="dsi",
        worse="dsi-inverted",
    ),
    Claim(
        system=_A,
        text="Semantic docids, not naive ones, in a large corpus",
        paper="27.4 against 6.7 (320K)",
        better="dsi",
        worse="dsi-naive",
    ),
    Claim(
        system=_A,
        text="Semantic docids, not naive ones, in a quarter of it",
        paper="33.9 against 28.1 (10K)",
        better="dsi-quarter",
        worse="dsi-naive-quarter",
    ),
    Claim(
        system=_A,
        text="Semantic docids, not atomic ones, in a large corpus",
        paper="27.4 against 20.7 (320K)",
        better="dsi",
        worse="dsi-atomic",
    ),
    Claim(
        system=_A,
        text="Semantic docids, not atomic ones, in a quarter of it",
        paper="33.9 against 13.0 (10K)",
        better="dsi-quarter",
        worse="dsi-atomic-quarter",
    ),
    Claim(
        system=_A,
        text="Random docids are memorised as well as semantic ones",
        paper="40.0 against 45.4 (others')",
        better="dsi-random",
        worse="dsi",
        split="documents",
        margin=-0.1,
    ),
    Claim(
        system=_A,
        text="... but do not carry over to documents without queries",
        paper="0 (others')",
        better="dsi",
        worse="dsi-random",
        split="unseen",
    ),
    Claim(system=_B, text="Generated queries", paper="88.7 against 53.6", better="nci", worse="nci-no-queries"),
    Claim(system=_B, text="The prefix-aware decoder", paper="88.7 against 87.0", better="nci", worse="nci-no-pawa"),
    Claim(system=_B, text="Consistency", paper="88.7 against 87.3", better="nci", worse="nci-no-consistency"),
    Claim(system=_B, text="Semantic docids", paper="88.7 against 87.2", better="nci", worse="nci-naive"),
    Claim(
        system=_B, text="Search among docids only", paper="88.7 against 87.4", better="nci", worse="nci-unconstrained"
    ),
    Claim(
        system=_C,
        text="Learned docids, not those of k-means, for documents with queries",
        paper="better",
        better="genret",
        worse="genret-kmeans",
    ),
    Claim(
        system=_C,
        text="... and for documents that came later",
        paper="62.5 against 1.3 (DSI)",
        better="genret",
        worse="genret-kmeans",
        split="unseen",
    ),
    Claim(
        system=_C,
        text="Level by level, not all at once",
        paper="better",
        better="genret",
        worse="genret-at-once",
    ),
    Claim(
        system=_C,
        text="Balanced codes, not the nearest",
        paper="better",
        better="genret",
        worse="genret-unbalanced",
    ),
)
