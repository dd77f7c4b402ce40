"""Train and measure the runs that test the papers' claims, and decide which claims hold."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.claims.catalogue import ARMS, CLAIMS, Arm, Claim
from genret_jax.config.gin_files import bindings_of, experiment_from_gin
from genret_jax.data.corpus import Corpus, read_beir, write_beir
from genret_jax.decoding import Unconstrained
from genret_jax.errors import CollapsedError, InputError
from genret_jax.evaluation.environment import environment
from genret_jax.evaluation.metrics import evaluate
from genret_jax.evaluation.trec import Run, rankings_by_id
from genret_jax.inference import search_tokens
from genret_jax.problems import Requests, make, say
from genret_jax.retriever import Retriever
from genret_jax.retriever.query_writer import QueryWriter, generate_queries
from genret_jax.run.training import train_run
from genret_jax.storage import fingerprint, read_json, write_json

METRIC, KS, BEAM = "mrr@10", (1, 10), 20
_UNSEEN_SHARE, _MOST_QUERIES, _QUERIES_A_DOCUMENT = 0.1, 1000, 10
# No checkpoint is chosen by validation: every run is measured at the end of its budget.
_BUDGET = (
    "TrainerConfig.evaluate_every = None",
    "TrainerConfig.evaluate_at_start = False",
    "TrainerConfig.checkpoint_every = None",
    "TrainerConfig.best_metric = None",
    "TrainerConfig.tensorboard = False",
    "Experiment.hold_out = 0.0",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of every run.

    Attributes:
        steps: Number of training steps.
        learning: Number of steps for each level of learned docids, before those.
        seeds: Seeds of each run and of its docids.
        documents: Largest number of documents to use; None for all.
    """

    steps: int
    learning: int
    seeds: tuple[int, ...]
    documents: int | None = None


def show_claims(
    corpus: Corpus, out: Path, budget: Budget, *, claims: Sequence[Claim] = CLAIMS, bindings: Sequence[str] = ()
) -> dict[str, Any]:
    """Train the runs that some claims need, and decide which claims hold; results that exist already are reused.

    A tenth of the documents are hidden: all their queries, of training and test, become the split ``unseen``. A run
    whose codebook collapses counts as one that finds nothing.

    Args:
        corpus: Corpus with training queries and a split ``test``.
        out: Folder for corpora, runs and results.
        budget: Budget of each run.
        claims: Claims to test.
        bindings: Gin bindings for every run, after the run's own.

    Returns:
        The content of ``claims.json`` in the folder: ``claims``, each with the MRR@10 of both arms for every seed, the
        mean difference with its 95% interval, and the verdict; ``arms``, with all metrics; ``budget`` and
        ``environment``.

    Raises:
        InputError: If the corpus has no training or test queries, there are fewer than two seeds, or the folder holds
            results of another budget or corpus.
    """
    if len(budget.seeds) < 2:
        raise InputError(
            f"{len(budget.seeds)} seed", expected="at least 2, for an interval", fix="give more seeds, such as 0 1 2"
        )
    corpora = _Corpora(corpus, out / "corpora", budget, bindings)
    needed = dict.fromkeys(name for claim in claims for name in (claim.better, claim.worse))
    arms: dict[str, list[dict[str, float]]] = {}
    for number, name in enumerate(needed, 1):
        say(f"[{number}/{len(needed)}] {name}")
        arms[name] = _arm_metrics(name, ARMS[name], corpora, out, budget, bindings)
    found = {
        "claims": [_decided(claim, arms) for claim in claims],
        "arms": arms,
        "budget": dataclasses.asdict(budget),
        "corpus": {"name": corpus.name, "documents": len(corpora.whole), "fingerprint": corpus.fingerprint},
        "environment": environment(),
    }
    write_json(out / "claims.json", found)
    return found


class _Corpora:
    """Folders of the corpus and of parts of it, with and without generated queries; made when needed."""

    def __init__(self, corpus: Corpus, folder: Path, budget: Budget, bindings: Sequence[str]):
        for split in ("train", "test"):
            if not corpus.qrels.get(split):
                raise InputError(
                    f"no queries in the split '{split}'",
                    file=corpus.source,
                    expected="a corpus with training queries and a split 'test'",
                    fix="choose another corpus, such as the one that 'genret corpus python-docs --out DIR' writes",
                )
        self.whole = with_unseen(_part(corpus, budget.documents or len(corpus)), _UNSEEN_SHARE)
        self._folder, self._budget, self._bindings = folder, budget, bindings

    def folder(self, share: float, generated: bool) -> Path:
        """Return the folder of this share of the documents."""
        name = f"{'generated' if generated else 'plain'}-{share:g}"
        part = functools.partial(_part, self.whole, max(2, round(share * len(self.whole))))
        if not generated:
            make(self._folder / name, lambda path: write_beir(part(), path))
        elif not (self._folder / name).is_dir():
            queries = self._generated(self.folder(share, False))
            make(
                self._folder / name,
                lambda path: write_beir(dataclasses.replace(part(), generated_queries=queries), path),
            )
        return self._folder / name

    def _generated(self, plain: Path) -> Mapping[str, tuple[str, ...]]:
        run = self._folder / f"writer-{plain.name}"
        paths = [f"CORPUS = {str(plain)!r}", f"RUN = {str(run)!r}", f"STEPS = {self._budget.steps}"]
        _, experiment = experiment_from_gin(["runs/queries_from_scratch.gin"], [*_BUDGET, *paths, *self._bindings])
        train_run(experiment, run)
        writer = QueryWriter.load(run, checkpoint="last")
        return generate_queries(writer, read_beir(plain), _QUERIES_A_DOCUMENT, progress=True).queries


def with_unseen(corpus: Corpus, share: float) -> Corpus:
    """Return a corpus in which the queries of some documents, of training and test, are the split ``unseen``.

    Args:
        corpus: Corpus with training queries.
        share: Share of the documents with training queries that are hidden from training.
    """
    trained = sorted({doc_id for grades in corpus.qrels["train"].values() for doc_id in grades})
    random = np.random.default_rng(0)
    hidden = set(random.choice(trained, max(1, round(share * len(trained))), replace=False).tolist())
    splits: dict[str, dict[str, Mapping[str, int]]] = {"train": {}, "test": {}, "unseen": {}}
    for split in ("train", "test"):
        for query, grades in corpus.qrels[split].items():
            splits[split if hidden.isdisjoint(grades) else "unseen"][query] = grades
    return _with_judged_queries(dataclasses.replace(corpus, qrels=splits, generated_queries={}))


def _part(corpus: Corpus, documents: int) -> Corpus:
    """Return a fixed random part of the documents, with the queries that only these documents answer."""
    chosen = np.sort(np.random.default_rng(1).permutation(len(corpus))[:documents])
    kept = {corpus.doc_ids[index] for index in chosen}
    qrels = {
        split: {query: grades for query, grades in of_split.items() if kept.issuperset(grades)}
        for split, of_split in corpus.qrels.items()
    }
    return _with_judged_queries(
        dataclasses.replace(
            corpus,
            doc_ids=tuple(corpus.doc_ids[index] for index in chosen),
            titles=tuple(corpus.titles[index] for index in chosen),
            texts=tuple(corpus.texts[index] for index in chosen),
            qrels=qrels,
            generated_queries={},
        )
    )


def _with_judged_queries(corpus: Corpus) -> Corpus:
    """Drop queries without judgements."""
    wanted = {query for of_split in corpus.qrels.values() for query in of_split}
    return dataclasses.replace(corpus, queries={query: corpus.queries[query] for query in wanted})


def _arm_metrics(
    name: str, arm: Arm, corpora: _Corpora, out: Path, budget: Budget, bindings: Sequence[str]
) -> list[dict[str, float]]:
    """Return the metrics of every seed of an arm, from an earlier call if they exist; empty if a codebook collapsed."""
    trained, file = arm.searched_as or name, out / "arms" / f"{name}.json"
    steps = budget.steps + arm.more_levels * budget.learning
    whole = corpora.whole
    made_of = {
        "arm": dataclasses.asdict(arm),
        "budget": dataclasses.asdict(budget),
        "bindings": list(bindings),
        "corpus": fingerprint(whole.fingerprint, whole.queries, whole.qrels),
    }
    if file.is_file():
        measured: dict[str, Any] = read_json(file)
        if measured["made_of"] != json.loads(json.dumps(made_of)):
            raise InputError(
                f"the results of {name} belong to another budget or corpus",
                file=file,
                fix="choose another output folder",
            )
        return measured["seeds"]
    folder = corpora.folder(arm.share, arm.generated)
    documents = len(read_beir(folder).doc_ids)
    found: list[dict[str, float]] = []
    for seed in budget.seeds:
        macros = {
            "CODEBOOK": _codebook(documents),
            "HALF": budget.steps // 2,
            "LEARNING": budget.learning,
            "CORPUS": str(folder),
            "RUN": str(out / "runs" / trained / f"seed_{seed}"),
            "STEPS": steps,
            "SEED": seed,
        }
        lines = bindings_of({macro: value for macro, value in macros.items() if _uses(arm, macro)})
        # Docids get the seed too, because they are part of the comparison.
        lines += [*_BUDGET, f"Experiment.docid_seed = {seed}", *arm.bindings, *bindings]
        run, experiment = experiment_from_gin([arm.file], lines)
        try:
            opened = train_run(experiment, run)
        except CollapsedError as collapse:
            say(f"{name}, seed {seed}: {collapse.found}")
            found.append({})
        else:
            found.append(_run_metrics(opened, unconstrained=arm.searched_as is not None))
    write_json(file, {"made_of": made_of, "seeds": found})
    return found


def _codebook(documents: int) -> int:
    """Return the codebook size: two levels give about 16 docids per document, with at most one code per 3 documents."""
    return int(2 ** min(math.ceil(math.log2(16 * documents) / 2), math.floor(math.log2(documents / 3))))


def _uses(arm: Arm, macro: str) -> bool:
    return macro not in ("CODEBOOK", "HALF", "LEARNING") or any(f"%{macro}" in line for line in arm.bindings)


def _run_metrics(run: Any, *, unconstrained: bool) -> dict[str, float]:
    """Return Hits@k and MRR@10 of a run for every split, and for documents as queries for themselves.

    If the run has a start, the metrics of the untrained network are included, with the prefix ``start/``.
    """
    splits = [split for split in ("test", "unseen") if run.corpus.qrels.get(split)]
    asked = {split: run.some_requests(split, _MOST_QUERIES) for split in splits}
    asked["documents"] = run.memorisation(_MOST_QUERIES)
    rank = _unconstrained_rankings if unconstrained else _rankings
    found: dict[str, float] = {}
    for before, checkpoint in {"": "last", "start/": "start"}.items():
        if before and run.experiment.start is None:
            continue
        retriever = Retriever(run, run.params(checkpoint))
        for split, requests in asked.items():
            metrics = evaluate(requests.split.qrels, rank(retriever, requests), ks=KS, beam=BEAM)
            found |= {f"{before}{split}/{metric}": metrics[metric] for metric in ("hits@1", "hits@10", METRIC)}
    return found


def _rankings(retriever: Retriever, requests: Requests) -> Run:
    ranked = retriever.rank(requests.tokens, beam=BEAM, progress=True)
    doc_ids = retriever.run.corpus.doc_ids
    return rankings_by_id(requests.split.qrels, doc_ids, ranked.documents.tolist(), ranked.scores.tolist())


def _unconstrained_rankings(retriever: Retriever, requests: Requests) -> Run:
    """Search without constraint; token sequences that are not docids are left out of the rankings."""
    run, names, tokens = retriever.run, list(requests.split.qrels), requests.tokens
    encoded = run.encoded
    rows = zip(encoded.tokens.tolist(), encoded.lengths.tolist(), encoded.document.tolist(), strict=True)
    document_of = {tuple(row[:end]): run.corpus.doc_ids[document] for row, end, document in rows}
    strategy = Unconstrained(vocab_size=run.model.output_vocab_size, max_length=encoded.tokens.shape[1])
    rankings: dict[str, list[tuple[str, float]]] = {}
    for start in range(0, len(tokens), 64):
        batch = np.zeros((64, tokens.shape[1]), np.int32)
        part = tokens[start : start + 64]
        batch[: len(part)] = part
        found = search_tokens(retriever.params, batch, strategy, None, run.model, BEAM)
        written, scores = np.asarray(found.tokens), np.asarray(found.scores)
        for row, name in enumerate(names[start : start + len(part)]):
            docids = [tuple(tokens[tokens > 0].tolist()) for tokens in written[row]]
            pairs = zip(docids, scores[row].tolist(), strict=True)
            rankings[name] = [(document_of[docid], score) for docid, score in pairs if docid in document_of]
    return rankings


def _decided(claim: Claim, arms: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return a claim with its figures and verdict; the two arms are paired by seed."""
    from scipy.stats import t

    name = f"{claim.split}/{METRIC}"
    # A collapsed run finds nothing.
    better, worse = ([of_seed.get(name, 0.0) for of_seed in arms[arm]] for arm in (claim.better, claim.worse))
    collapsed = sum(not of_seed for arm in (claim.better, claim.worse) for of_seed in arms[arm])
    differences = np.subtract(better, worse)
    seeds = len(differences)
    half = float(t.ppf(0.975, seeds - 1) * differences.std(ddof=1) / math.sqrt(seeds))
    mean = float(differences.mean())
    verdict = "undecided"
    if mean - half > claim.margin:
        verdict = "holds"
    elif mean + half < claim.margin:
        verdict = "does not hold"
    figures = {"better": better, "worse": worse, "difference": mean, "half_interval": half, "verdict": verdict}
    figures["collapsed"] = collapsed
    return {**dataclasses.asdict(claim), "figures": figures}


def table(found: Mapping[str, Any]) -> str:
    """Return the claims as a Markdown table."""
    lines = [
        "| | claim | paper, Hits@1 | here, MRR@10 | difference | |",
        "|---|---|---|---:|---:|---|",
    ]
    for claim in found["claims"]:
        figures = claim["figures"]
        better, worse = (100 * np.mean(figures[arm]) for arm in ("better", "worse"))
        where = "" if claim["split"] == "test" else f" ({claim['split']})"
        difference = f"{100 * figures['difference']:+.1f} ±{100 * figures['half_interval']:.1f}"
        if figures["collapsed"]:
            difference += f" ({figures['collapsed']} collapsed)"
        lines.append(
            f"| {claim['system']} | {claim['text']}{where} | {claim['paper']} | {better:.1f} against {worse:.1f} "
            f"| {difference} | {figures['verdict']} |"
        )
    return "\n".join(lines)
