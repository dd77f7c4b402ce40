#!/usr/bin/env python
"""Time one query through ``Retriever.search`` beside what a user would pick instead: a text encoder and FAISS's HNSW.

Example:
    python scripts/benchmark_search_latency.py --documents 100000 1000000 --out benchmarks/results/search_latency.json

A query is text, the answer is the ids of ten documents. Ours: the whole of ``Retriever.search`` with 10 and 20 beams,
for three networks. ``pretrained`` is the one that ``genret train`` makes with all-MiniLM-L6-v2: a plan of words and
vectors, over documents of 60 words drawn by Zipf's law, as are the words of queries. It needs ``genret encoder get
all-MiniLM-L6-v2``. The others have random weights, as speed does not depend on training: ``from_scratch`` has
hierarchical docids and a row a docid node, ``t5_small`` the shape of T5 1.0 small and docids of 8 codes of 256.
Theirs: ``DualEncoder.encode_queries`` with an encoder of the same shape, weights and vocabulary, and ``HnswIndex`` (M
32) with the least efSearch whose recall@10 is 0.95 of an exact search, over clustered random vectors of 384 dimensions.
Their queries' vectors are drawn beside documents', as an untrained encoder's are near none.

The sides take turns, a query each, and so do their stages, each on its own; ``decode`` is what remains of the one
program that encodes and decodes when the encoder's time is taken off. Results of other sizes and networks stay in the
file. With 1,000,000 documents the graph takes ten minutes or more to build, and the first network's tables need 8 GB.
"""

import argparse
import dataclasses
import functools
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from genret_jax.baselines.dual_encoder import DualEncoder, DualEncoderConfig, encoder_params
from genret_jax.baselines.vector_search import ExactIndex, HnswConfig, HnswIndex
from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.text.encoder_vocabulary import EncoderVocabulary
from genret_jax.data.text.lsa import bm25, bm25_idf
from genret_jax.data.text.terms import term_rows, terms_of
from genret_jax.data.text.vocabulary import Vocabulary, train_sentencepiece
from genret_jax.decoding import TrieConstraint, rank_documents
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.evaluation.environment import environment
from genret_jax.inference import search_tokens
from genret_jax.models import T5, T5Config
from genret_jax.models.encoders.getting import find_encoder
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.models.plan import PlanTables
from genret_jax.problems.documents import Documents
from genret_jax.problems.sizing import with_encoder
from genret_jax.retriever import Retriever
from genret_jax.storage import read_json, write_json
from genret_jax.training.planned_docids import PlanDocuments

RESULTS, WANTED_RECALL = 10, 0.95
WORDS_OF_DOCUMENT = 60
FIRST_TOKEN = 2
NODE_TABLES = ("input_nodes", "output_nodes")


class Setting(NamedTuple):
    """A network with docids for it, and what a pretrained encoder and a plan have beside them."""

    model: T5Config
    sampler: SamplerConfig
    codes: np.ndarray  # [n, m]
    encoder: SentenceEncoder | None = None
    plan: PlanDocuments | None = None
    terms: Mapping[str, int] = {}


# Made-up parts of a run ------------------------------------------------------------------------------------------


def hierarchical_codes(documents: int, branching: int, leaf_size: int) -> np.ndarray:
    """Return codes as balanced hierarchical clustering gives them: a digit a level, then a place in the leaf."""
    levels = 1
    while documents / branching**levels > leaf_size:
        levels += 1
    leaves = np.sort(np.random.default_rng(0).integers(0, branching**levels, documents))
    place = np.arange(documents) - np.searchsorted(leaves, leaves)
    digits = [leaves // branching**level % branching for level in reversed(range(levels))]
    return np.stack([*digits, place], axis=1).astype(np.int32)


def residual_codes(documents: int, codes: int, levels: int) -> np.ndarray:
    """Return distinct random code sequences."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, codes, (documents + documents // 8, levels), dtype=np.int32)
    return random.permutation(np.unique(drawn, axis=0))[:documents]


def pretrained(documents: int) -> Setting:
    """Return the network of ``genret train`` on all-MiniLM-L6-v2, with made-up documents."""
    encoder = SentenceEncoder.load(find_encoder("all-MiniLM-L6-v2"))
    _, experiment = experiment_from_gin(["runs/dsi_pretrained.gin"], ["CORPUS = 'not read'", "RUN = 'not read'"])
    terms = {term: number for number, term in enumerate(dict.fromkeys(map(_term, words_of(encoder))), 1)}
    drawn = 1 + zipf(len(terms), (documents, WORDS_OF_DOCUMENT), seed=2)
    counts = scipy.sparse.csr_matrix(
        (np.ones(drawn.size, np.float32), drawn.ravel(), np.arange(0, drawn.size + 1, WORDS_OF_DOCUMENT)),
        shape=(documents, 1 + len(terms)),
    )
    counts.sum_duplicates()
    weights = bm25(counts, bm25_idf(counts), k1=1.2, b=0.6)
    vectors, _ = clustered_vectors(documents, 1, encoder.width)
    plan = PlanDocuments(vectors=vectors, weights=weights, bias=np.zeros(documents, np.float32))
    # Two levels of so many codes that a code has as many below it.
    codes = hierarchical_codes(documents, int(np.clip(2 ** np.ceil(np.log2(documents) / 2), 8, 1024)), 64)
    return Setting(experiment.model, experiment.sampler, codes, encoder, plan, terms)


def words_of(encoder: SentenceEncoder) -> list[str]:
    """Return the words of an encoder's vocabulary, which has frequent ones first."""
    vocabulary = sorted(encoder.tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return [token for token, _ in vocabulary if token.isalpha() and token.isascii() and len(token) > 1]


def _term(word: str) -> str:
    return terms_of(word)[0]


def zipf(words: int, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Draw numbers of words, each as often as Zipf's law says."""
    shares = 1 / np.arange(1, words + 1)
    return np.searchsorted(np.cumsum(shares / shares.sum()), np.random.default_rng(seed).random(shape)).clip(
        max=words - 1
    )


def from_scratch(documents: int) -> Setting:
    """Return a small network from scratch whose head has a row per docid node, without a plan."""
    bindings = ["CORPUS = 'not read'", "RUN = 'not read'", "T5Config.head = 'prefix'"]
    _, experiment = experiment_from_gin(["runs/from_scratch.gin"], bindings)
    strategy: Any = experiment.docids
    codes = hierarchical_codes(documents, strategy.branching, strategy.leaf_size)
    return Setting(experiment.model, experiment.sampler, codes)


def t5_small(documents: int) -> Setting:
    """Return T5 1.0 small with docids of 8 codes of 256."""
    model = T5Config.t5_1_0_small()
    return Setting(model, SamplerConfig(input_length=32, append_eos=True), residual_codes(documents, 256, 8))


SETTINGS: Mapping[str, Callable[[int], Setting]] = {
    "pretrained": pretrained,
    "from_scratch": from_scratch,
    "t5_small": t5_small,
}


class MadeUpRun(Documents):
    """The parts of a run that a retriever needs, without a corpus or training."""

    vocabulary: Any = None  # not the property, which reads a folder

    def __init__(self, setting: Setting, words: Sequence[str], vocabulary: Vocabulary):
        made_up: Any = SimpleNamespace(sampler=setting.sampler, start=None, seed=0)
        super().__init__("made-up", made_up, {})
        count = len(setting.codes)
        ids = [f"document-{number}" for number in range(count)]
        self.table = DocidTable.from_codes(ids, setting.codes, strategy={}, corpus_fingerprint="")
        codec = DocidCodec(kind="per_level", first_token=FIRST_TOKEN, level_sizes=self.table.level_sizes, eos="needed")
        self.encoded = codec.encode(self.table)
        nodes = self.encoded.tree.num_nodes if setting.model.head == "prefix" else 0
        vocab_size = max(setting.model.vocab_size, vocabulary.size)
        self.model = dataclasses.replace(
            setting.model, vocab_size=vocab_size, decoder_vocab_size=codec.vocab_size, num_nodes=nodes
        )
        if setting.encoder is not None:
            length = setting.sampler.input_length
            self.model = with_encoder(setting.model, setting.encoder, codec, 1 + len(setting.terms), length)
        self.vocabulary, self.plan = vocabulary, setting.plan
        self.store: Any = SimpleNamespace(term_rows=functools.partial(term_rows, numbers=setting.terms))
        self.corpus = Corpus(
            name="made up", doc_ids=tuple(ids), titles=("",) * count, texts=(" ".join(words[:20]),) * count
        )

    @functools.cached_property
    def plan_tables(self) -> PlanTables | None:
        """The facts of the plan about the docids; None without a plan."""
        return None if self.plan is None else self.plan.tables(self.model, self.encoded)


def random_params(run: MadeUpRun) -> dict[str, Any]:
    """Return random parameters, made in place: node tables of a million documents take gigabytes."""
    shapes = run.param_shapes()
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    made = [_random_leaf(key, path[-1].key, leaf.shape) for key, (path, leaf) in zip(keys, leaves, strict=True)]
    return jax.tree_util.tree_unflatten(structure, made)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_leaf(key: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
    if len(shape) < 2:  # scales and biases
        return jnp.ones(shape)
    deviation = 1.0 if name == "embedding" else shape[-1 if name in NODE_TABLES else 0] ** -0.5
    # Some thousand random rows, each stretched differently wherever it is used: quicker than drawing millions.
    rows = min(shape[0], 4096)
    block = deviation * jax.random.normal(key, (rows, *shape[1:]))
    stretch = jax.random.uniform(key, (shape[0],), minval=0.5, maxval=1.5)
    return block[jnp.arange(shape[0]) % rows] * stretch.reshape(-1, *[1] * (len(shape) - 1))


def made_up_words(count: int = 2000) -> list[str]:
    """Return pronounceable words."""
    random = np.random.default_rng(0)
    syllables = [c + v for c in "bcdfghklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er")]
    return ["".join(random.choice(syllables, random.integers(1, 5))) for _ in range(count)]


def vocabulary_and_queries(encoder: SentenceEncoder | None, queries: int) -> tuple[list[str], Vocabulary, list[str]]:
    """Return words, a vocabulary of an encoder or one trained on them, and queries of 4 to 9 of them."""
    random, words = np.random.default_rng(1), made_up_words()
    if encoder is not None:
        words = words_of(encoder)
        drawn = zipf(len(words), (queries, 9), seed=3)
        texts = [" ".join(words[number] for number in row[: random.integers(4, 10)]) for row in drawn]
        return words, EncoderVocabulary(encoder.tokenizer, pad=encoder.pad), texts
    vocabulary = train_sentencepiece((" ".join(random.choice(words, 12)) for _ in range(2000)), size=4000)
    return words, vocabulary, [" ".join(random.choice(words, random.integers(4, 10))) for _ in range(queries)]


# The other side --------------------------------------------------------------------------------------------------


def clustered_vectors(documents: int, queries: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of documents and of queries beside some of them.

    Real embeddings lie in clusters and near a subspace of far fewer dimensions than they have; a graph search of
    evenly spread vectors would be hopeless, and of a few tight clusters trivial.
    """
    random = np.random.default_rng(0)
    latent = min(64, dimensions)
    spectrum = np.arange(1, latent + 1) ** -0.25
    basis = np.linalg.qr(random.standard_normal((dimensions, latent)))[0].T.astype(np.float32)
    centres = random.standard_normal((max(2, documents // 200), latent))
    near = centres[random.integers(0, len(centres), documents)] + random.standard_normal((documents, latent))
    asked = near[random.integers(0, documents, queries)] + random.standard_normal((queries, latent))

    def unit(points: np.ndarray) -> np.ndarray:
        vectors = (points * spectrum).astype(np.float32) @ basis
        vectors += 0.01 * random.standard_normal(vectors.shape, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return unit(near), unit(asked)


class Graph(NamedTuple):
    """A tuned HNSW graph with queries for it."""

    hnsw: HnswIndex
    queries: np.ndarray  # [q, d]
    described: dict[str, Any]


def tuned_graph(documents: int, queries: int, dimensions: int) -> Graph:
    """Build the graph, and choose the least effort that finds enough of the exact answers."""
    vectors, asked = clustered_vectors(documents, queries, dimensions)
    _, exact = ExactIndex(vectors).search(asked, RESULTS)
    start = time.perf_counter()
    index = HnswIndex(vectors, HnswConfig(neighbours=32))
    seconds = time.perf_counter() - start
    recall = 0.0
    for effort in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
        index.config = dataclasses.replace(index.config, ef_search=effort)
        _, found = index.search(asked, RESULTS)
        hits = [len(set(mine) & set(other)) for mine, other in zip(found.tolist(), exact.tolist(), strict=True)]
        recall = float(np.mean(hits)) / RESULTS
        if recall >= WANTED_RECALL:
            break
    else:
        raise SystemExit(f"HNSW finds {recall:.3f} of the exact answers at most, not {WANTED_RECALL}")
    links = index._index.hnsw
    size = vectors.nbytes + 4 * links.neighbors.size() + 8 * links.offsets.size() + 4 * links.levels.size()
    described = {
        "index": f"{index.describe()}, efSearch {index.config.effort(RESULTS)}",
        "dimensions": dimensions,
        "recall_at_10": round(recall, 4),
        "build_seconds": round(seconds, 1),
        "bytes_per_document": round(size / documents, 1),
    }
    return Graph(index, asked, described)


def dual_encoder(run: MadeUpRun, params: Mapping[str, Any]) -> DualEncoder:
    """Return an encoder with the run's shape, weights, vocabulary and input length; its vectors are not used."""
    config = DualEncoderConfig(
        network=run.model,
        query_length=run.sampler.input_length,
        append_eos=run.sampler.append_eos,
        passage_form=run.model.sentence,
    )
    nothing = np.zeros((0, run.model.d_model), np.float32)
    return DualEncoder(config, encoder_params(params, run.model), run.vocabulary, run.corpus.doc_ids, nothing)


# Timing ----------------------------------------------------------------------------------------------------------

Call = Callable[[int], Any]


def milliseconds(calls: Mapping[str, Call], repeats: int) -> dict[str, np.ndarray]:
    """Return the time of each call with the number of its query, the calls taking turns."""
    times = {name: np.zeros(repeats) for name in calls}
    for call in calls.values():
        for number in range(3):
            call(number)
    for number in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call(number)
            times[name][number] = (time.perf_counter() - start) * 1e3
    return times


def percentiles(times: np.ndarray) -> dict[str, float]:
    """Return p50 and p95."""
    return {f"p{share}": round(float(np.percentile(times, share)), 3) for share in (50, 95)}


def whole_calls(retriever: Retriever, other: DualEncoder, graph: Graph, texts: list[str], beam: int) -> dict[str, Call]:
    """Return both sides from text to document ids."""

    def theirs(number: int) -> list[str]:
        other.encode_queries([texts[number]])
        _, found = graph.hnsw.search(graph.queries[number : number + 1], RESULTS)
        return [other.doc_ids[document] for document in found[0] if document >= 0]

    return {"ours": lambda number: retriever.search(texts[number], RESULTS, beam=beam), "encoder_and_hnsw": theirs}


def stage_calls(retriever: Retriever, other: DualEncoder, graph: Graph, texts: list[str], beam: int) -> dict[str, Call]:
    """Return the stages of both sides, each with its input ready."""
    run, model, plan = retriever.run, T5(retriever.run.model), retriever.run.plan_tables
    tokens = [jnp.asarray(run.encode([text])) for text in texts]
    encode = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens, method=T5.encode))

    def search(number: int) -> Any:
        found = search_tokens(
            retriever._params, tokens[number], TrieConstraint(retriever.index), retriever._tree, run.model, beam, plan
        )
        return jax.block_until_ready(found)

    found = [search(number) for number in range(min(20, len(texts)))]

    def to_documents(number: int) -> Any:
        return retriever._results(rank_documents(found[number % len(found)], retriever.index, limit=RESULTS), 0)

    return {
        "tokenise": lambda number: run.encode([texts[number]]),
        "encode": lambda number: jax.block_until_ready(encode(retriever._params, tokens[number])),
        "encode_and_decode": search,
        "map": to_documents,
        "other_tokenise_and_encode": lambda number: other.encode_queries([texts[number]]),
        "other_hnsw": lambda number: graph.hnsw.search(graph.queries[number : number + 1], RESULTS),
    }


def measure(retriever: Retriever, other: DualEncoder, graph: Graph, texts: list[str], beam: int) -> dict[str, Any]:
    """Time one beam width."""
    calls = whole_calls(retriever, other, graph, texts, beam) | stage_calls(retriever, other, graph, texts, beam)
    times = milliseconds(calls, len(texts))
    times["decode"] = np.maximum(times["encode_and_decode"] - times["encode"], 0)
    stages = {
        "ours": {stage: stage for stage in ("tokenise", "encode", "decode", "map")},
        "encoder_and_hnsw": {"tokenise_and_encode": "other_tokenise_and_encode", "hnsw": "other_hnsw"},
    }
    return {
        "beam": beam,
        "milliseconds": {
            side: {
                "whole": percentiles(times[side]),
                **{stage: percentiles(times[name]) for stage, name in names.items()},
            }
            for side, names in stages.items()
        },
        "ratio_of_medians": round(float(np.median(times["ours"]) / np.median(times["encoder_and_hnsw"])), 3),
    }


def setting_report(name: str, documents: int, graph: Graph, beams: list[int], queries: int) -> dict[str, Any]:
    """Measure one network at one number of documents."""
    setting = SETTINGS[name](documents)
    words, vocabulary, texts = vocabulary_and_queries(setting.encoder, queries)
    run = MadeUpRun(setting, words, vocabulary)
    params = random_params(run)
    retriever, other = Retriever(run, params), dual_encoder(run, params)
    tables = params.get("decoder", {}).get("prefix_head", {})
    ours = {
        "docid_tokens": int(run.encoded.tokens.shape[1]),
        "decoder_vocab_size": run.model.output_vocab_size,
        "docid_index_bytes_per_document": round(retriever.index.num_bytes / documents, 1),
        # A prefix head's rows grow with the documents; another network's weights do not.
        "node_table_bytes_per_document": round(sum(table.nbytes for table in tables.values()) / documents, 1),
        "plan_bytes_per_document": round(run.plan_tables.num_bytes / documents, 1) if run.plan_tables else 0,
    }
    rows = [measure(retriever, other, graph, texts, beam) for beam in beams]
    for row in rows:
        progress(f"{name}, {documents:,} documents: {row}")
    return {"network": name, "documents": documents, "ours": ours, "hnsw": graph.described, "results": rows}


def progress(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def arguments_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", nargs="+", type=int, default=[100_000, 1_000_000], help="numbers of documents")
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--beams", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--queries", type=int, default=200, help="timed queries of each side")
    parser.add_argument("--dimensions", type=int, default=384, help="dimensions of the vectors that HNSW searches")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_latency.json"))
    return parser.parse_args(command_line)


def earlier_results(file: Path, queries: int) -> list[dict[str, Any]]:
    """Return the earlier results in the file, which must come from this machine and this number of queries."""
    if not file.is_file():
        return []
    earlier = read_json(file)
    if (earlier["queries"], earlier["environment"]) != (queries, environment()):
        raise SystemExit(f"{file} is of another machine or number of queries; name another file with --out")
    results: list[dict[str, Any]] = earlier["results"]
    return results


def main() -> None:
    """Measure everything and write the result."""
    arguments = arguments_of()
    earlier = earlier_results(arguments.out, arguments.queries)
    reports = []
    for documents in arguments.documents:
        progress(f"{documents:,} documents: building the HNSW graph")
        graph = tuned_graph(documents, arguments.queries, arguments.dimensions)
        progress(f"{graph.described}")
        for name in arguments.networks:
            reports.append(setting_report(name, documents, graph, arguments.beams, arguments.queries))
            gc.collect()  # the tables of the last network go before those of the next come
    made = {(report["network"], report["documents"]) for report in reports}
    kept = [report for report in earlier if (report["network"], report["documents"]) not in made]
    result = {
        "what": "one query at a time, from text to ten document ids, CPU, float32; "
        "the other side is an encoder of the same shape and FAISS HNSW",
        "queries": arguments.queries,
        "environment": environment(),
        "results": [*kept, *reports],
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
