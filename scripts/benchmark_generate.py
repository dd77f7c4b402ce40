#!/usr/bin/env python
"""Time our whole search beside transformers' ``generate`` with the same weights and the same ten docids out.

Example:
    python scripts/benchmark_generate.py --documents 100000 --repeats 20 --out benchmarks/results/generate.json

Both sides get token ids and give the ten best docids of each query: encoder, beam search of ten beams over the docids
that exist, scores that are sums of log-probabilities over the full vocabulary. The network has the shape of T5 1.0
small and random weights, written by ``genret_jax.models.convert.huggingface`` and loaded by transformers.

Ours is the function that ``Retriever`` calls: one jitted program. Theirs is
``T5ForConditionalGeneration.generate(num_beams=10, num_return_sequences=10, prefix_allowed_tokens_fn=..., ...)`` with a
dict trie, a key-value cache, float32, ``torch.inference_mode`` and whichever of eager and scaled-dot-product attention
is the faster here. Where it helps them, they have it: their inputs are cut to the longest query of the batch (ours stay
padded to 32), the children of large nodes are kept as tensors, and scores are not asked for in timed calls.

Before anything is timed, the answers are compared for every batch that will be: scores within 1e-3, and the same docid
in every place whose neighbours' scores differ by more than that. A difference ends the script with an error.

Settings: ``semantic``, 8 codes of 256 with a token per level and code (2,050 tokens), uniform; ``semantic_zipf``, the
same with Zipf-distributed codes, so that docids share long prefixes; ``string``, 5 Zipf-distributed tokens of 34,048
and EOS.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genret_jax.decoding import DocidIndex, TrieConstraint
from genret_jax.evaluation.environment import environment
from genret_jax.inference import search_tokens
from genret_jax.models import T5, T5Config
from genret_jax.models.convert.huggingface import save_safetensors
from genret_jax.storage import write_json

BEAMS, INPUT_LENGTH, EOS, FIRST_TOKEN = 10, 32, 1, 2
TOLERANCE = 1e-3
SHARPNESS = 3.0  # standard deviation of the logits: random weights alone give nearly even distributions
QUERY_BATCHES = 4  # timed in turn, so that no side's caches know the answer


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of docid: its decoder vocabulary, its length with EOS, and how its tokens are drawn."""

    vocab_size: int
    length: int
    codes: int
    zipf: bool
    per_level: bool


KINDS = {
    "semantic": Kind(vocab_size=2050, length=8, codes=256, zipf=False, per_level=True),
    "semantic_zipf": Kind(vocab_size=2050, length=8, codes=256, zipf=True, per_level=True),
    "string": Kind(vocab_size=34_048, length=6, codes=34_046, zipf=True, per_level=False),
}


class Answer(NamedTuple):
    """The best docids of each query, best first."""

    tokens: np.ndarray  # int[b, k, m]
    scores: np.ndarray  # float[b, k]


def random_docids(kind: Kind, documents: int, seed: int) -> np.ndarray:
    """Return distinct docids ``[n, m]`` as decoder tokens; strings end with EOS, semantic docids need none."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, kind.codes + 1) if kind.zipf else np.ones(kind.codes)
    levels = kind.length if kind.per_level else kind.length - 1
    codes = random.choice(kind.codes, (documents * 2, levels), p=weights / weights.sum())
    codes = random.permutation(np.unique(codes, axis=0))[:documents]
    if len(codes) < documents:
        raise SystemExit(f"only {len(codes)} of {documents} docids were distinct; take fewer documents")
    if kind.per_level:
        return codes + FIRST_TOKEN + np.arange(levels) * kind.codes
    # Which tokens are frequent must not depend on their number, or frequent ones would lie together in memory.
    tokens = random.permutation(kind.codes)[codes] + FIRST_TOKEN
    return np.pad(tokens, ((0, 0), (0, 1)), constant_values=EOS)


def random_queries(kind: Kind, batch: int, seed: int) -> np.ndarray:
    """Return queries ``[b, INPUT_LENGTH]`` of 8 tokens or more, padded with 0."""
    random = np.random.default_rng(seed)
    tokens = random.integers(FIRST_TOKEN, kind.vocab_size, (batch, INPUT_LENGTH), dtype=np.int32)
    lengths = random.integers(8, INPUT_LENGTH + 1, (batch, 1))
    return np.where(np.arange(INPUT_LENGTH) < lengths, tokens, 0).astype(np.int32)


def random_weights(config: T5Config, seed: int) -> dict[str, Any]:
    """Return random parameters whose logits differ enough for the ranking to be one."""
    token = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(T5(config).init)(jax.random.key(seed), token, token)["params"]
    params = jax.tree.map(np.array, params)
    params["decoder"]["decoder_norm"]["scale"] *= SHARPNESS
    return params


def our_search(params: Mapping[str, Any], config: T5Config, index: DocidIndex) -> Callable[[np.ndarray], Answer]:
    """Return our search: host arrays in, host arrays out."""
    on_device: tuple[Any, DocidIndex] = jax.device_put((params, index))

    def search(tokens: np.ndarray) -> Answer:
        found = search_tokens(on_device[0], jnp.asarray(tokens), TrieConstraint(on_device[1]), None, config, BEAMS)
        return Answer(np.asarray(found.tokens), np.asarray(found.scores))

    return search


class DictTrie:
    """The usual trie for ``prefix_allowed_tokens_fn``: nested dictionaries, walked from the root at every call."""

    _MANY = 64  # from here on, handing over a tensor made once is faster than a list

    def __init__(self, docids: np.ndarray):
        import torch

        self._root: dict[int, Any] = {}
        for docid in docids.tolist():
            node = self._root
            for token in docid:
                node = node.setdefault(token, {})
        self._large: dict[int, torch.Tensor] = {}
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            waiting.extend(child for child in node.values() if child)
            if len(node) > self._MANY:
                self._large[id(node)] = torch.tensor(list(node))

    def allowed(self, query: int, prefix: Any) -> Any:
        """Return what may follow a prefix, whose first token is the decoder's start."""
        node = self._root
        for token in prefix.tolist()[1:]:
            node = node.get(token, {})
        # A beam that transformers keeps only to fill its places may stand anywhere, but must be allowed something.
        return self._large.get(id(node)) if id(node) in self._large else (list(node) or [EOS])


class Transformers:
    """The other side: ``generate`` over a loaded checkpoint.

    Args:
        folder: The checkpoint.
        docids: Docids that may be generated, ``[n, m]``.
        trie: Its prefixes.
        attention: ``"eager"`` or ``"sdpa"``.
    """

    def __init__(self, folder: Path, docids: np.ndarray, trie: DictTrie, attention: str):
        import torch
        import transformers

        self.model = transformers.T5ForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()
        self._trie, self._length = trie, docids.shape[1]

    def search(self, tokens: np.ndarray, *, scores: bool = False) -> Answer:
        """Return the best docids; scores only on request, as keeping them costs time."""
        import torch

        longest = int((tokens > 0).sum(axis=1).max())
        inputs = torch.from_numpy(tokens[:, :longest]).long()
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=inputs,
                attention_mask=(inputs > 0).long(),
                prefix_allowed_tokens_fn=self._trie.allowed,
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_length=self._length + 1,
                length_penalty=0.0,
                early_stopping=False,
                do_sample=False,
                use_cache=True,
                return_dict_in_generate=scores,
                output_scores=scores,
            )
        sequences = found.sequences if scores else found
        sums = found.sequences_scores.numpy() if scores else np.zeros(0)
        shape = (len(tokens), BEAMS)
        return Answer(sequences.numpy()[:, 1:].reshape(*shape, -1), sums.reshape(shape) if scores else sums)


def differences(ours: Answer, theirs: Answer) -> list[str]:
    """Return what differs, a line each; docids may only change places where their scores are as good as equal."""
    found = []
    for query, (mine, other) in enumerate(zip(ours.scores, theirs.scores, strict=True)):
        gap = np.abs(mine - other).max()
        if not gap <= TOLERANCE:
            found.append(f"query {query}: scores differ by {gap:.2g}: {mine.round(4)} and {other.round(4)}")
        begins = np.flatnonzero(np.append(True, mine[:-1] - mine[1:] > TOLERANCE))
        # If the last place cuts a group of equal scores, the two sides may show different members of it.
        for start, stop in zip(begins, [*begins[1:], len(mine) if begins[-1] == len(mine) - 1 else None], strict=True):
            groups = [{tuple(row) for row in side.tokens[query, start:stop].tolist()} for side in (ours, theirs)]
            if stop is not None and groups[0] != groups[1]:
                found.append(f"query {query}, places {start + 1} to {stop}: {groups[0]} and {groups[1]}")
    return found


def check_same(ours: Callable[[np.ndarray], Answer], theirs: Transformers, batches: list[np.ndarray]) -> dict[str, Any]:
    """End the script unless both sides agree on all batches; return how much that says."""
    worst, gaps, best = 0.0, [], set()
    for number, tokens in enumerate(batches):
        mine, other = ours(tokens), theirs.search(tokens, scores=True)
        wrong = differences(mine, other)
        if wrong:
            raise SystemExit(f"the two sides disagree on batch {number}:\n" + "\n".join(wrong[:10]))
        worst = max(worst, float(np.abs(mine.scores - other.scores).max()))
        gaps.append(mine.scores[:, :-1] - mine.scores[:, 1:])
        best |= {tuple(docid) for docid in mine.tokens[:, 0].tolist()}
    apart = np.concatenate(gaps) > TOLERANCE
    return {
        "queries": sum(map(len, batches)),
        "largest_score_difference": float(f"{worst:.2g}"),
        "share_of_neighbours_told_apart": round(float(apart.mean()), 4),
        "different_best_docids": len(best),
    }


def faster_attention(sides: Mapping[str, Transformers], tokens: np.ndarray) -> str:
    """Return which attention of transformers is the faster, by the best of five calls in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(6):
        for name, side in sides.items():
            start = time.perf_counter()
            side.search(tokens)
            if turn:
                times[name].append(time.perf_counter() - start)
    return min(times, key=lambda name: min(times[name]))


def interleaved(
    runs: Mapping[str, Callable[[np.ndarray], Answer]], batches: list[np.ndarray], repeats: int
) -> dict[str, list[float]]:
    """Return milliseconds of each call, the sides taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        # Each goes first half of the time; the pause lets the other's idle threads stop spinning.
        for name in sorted(runs, reverse=bool(repeat % 2)):
            time.sleep(0.02)
            start = time.perf_counter()
            runs[name](batches[repeat % len(batches)])
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def quartiles(values: Any, digits: int = 2) -> dict[str, float]:
    """Return median and quartiles."""
    numbers = np.percentile(values, [25, 50, 75]).round(digits).tolist()
    return dict(zip(("low", "median", "high"), numbers, strict=True))


class Parts(NamedTuple):
    """Both sides of one kind of docid."""

    ours: Callable[[np.ndarray], Answer]
    theirs: dict[str, Transformers]
    described: dict[str, Any]


def measure(name: str, batch: int, parts: Parts, repeats: int) -> dict[str, Any]:
    """Compare and time one setting."""
    batches = [random_queries(KINDS[name], batch, seed) for seed in range(QUERY_BATCHES)]
    start = time.perf_counter()
    parts.ours(batches[0])
    first_call = time.perf_counter() - start
    attention = faster_attention(parts.theirs, batches[0])
    theirs = parts.theirs[attention]
    agreement = check_same(parts.ours, theirs, batches)
    times = interleaved({"ours": parts.ours, "transformers": theirs.search}, batches, repeats)
    medians = {side: float(np.median(values)) for side, values in times.items()}
    return {
        "docids": name,
        "batch": batch,
        **parts.described,
        "attention_of_transformers": attention,
        "agreement": agreement,
        "first_call_seconds": round(first_call, 2),
        "milliseconds": {side: quartiles(values) for side, values in times.items()},
        "queries_per_second": {side: round(batch / median * 1e3, 1) for side, median in medians.items()},
        "times_as_fast": round(medians["transformers"] / medians["ours"], 2),
        "times_as_fast_pairwise": quartiles(np.array(times["transformers"]) / np.array(times["ours"])),
    }


def build(name: str, documents: int, seed: int, folder: Path) -> Parts:
    """Make docids and weights, and both sides of them."""
    kind = KINDS[name]
    docids = random_docids(kind, documents, seed)
    config = T5Config.t5_1_0_small(vocab_size=kind.vocab_size)
    params = random_weights(config, seed)
    save_safetensors(folder / name, params, config)
    lengths = np.full(len(docids), kind.length)
    index = DocidIndex.build(docids, lengths, np.arange(len(docids)), vocab_size=kind.vocab_size)
    trie = DictTrie(docids)
    theirs = {attention: Transformers(folder / name, docids, trie, attention) for attention in ("eager", "sdpa")}
    described = {"documents": len(docids), "length": kind.length, "vocab_size": kind.vocab_size, "beams": BEAMS}
    return Parts(our_search(params, config, index), theirs, described)


def versions() -> dict[str, str]:
    """Return the versions of the other side."""
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def progress(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def arguments_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000, help="docids in each setting")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each side")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which docids")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16], help="queries searched together")
    parser.add_argument("--seed", type=int, default=0, help="seed of docids and weights")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/generate.json"))
    return parser.parse_args(command_line)


def main() -> None:
    """Measure all settings and write the result."""
    arguments = arguments_of()  # before torch, without which --help answers too
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.kinds:
            progress(f"{name}: building both sides")
            parts = build(name, arguments.documents, arguments.seed, Path(folder))
            for batch in arguments.batches:
                rows.append(measure(name, batch, parts, arguments.repeats))
                row = rows[-1]
                progress(f"{name}, batch {batch}: {row['milliseconds']}, {row['times_as_fast']} times as fast")
    result = {
        "what": "T5 1.0 small shape, same random float32 weights on both sides, 10 beams, same 10 docids out, CPU; "
        "token ids in, docids out, encoder included; ours jitted, theirs generate() with a dict trie",
        "repeats": arguments.repeats,
        "torch_threads": torch.get_num_threads(),
        "load_average_at_the_end": round(os.getloadavg()[0], 2),
        "environment": environment(),
        "versions_of_the_other_side": versions(),
        "results": rows,
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
