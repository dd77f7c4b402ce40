"""Time what NCI's adaptive decoder and its consistency cost, at the shape of T5 1.1 small, on the CPU.

    python scripts/benchmark_nci.py [--turns 9] [--out benchmarks/results/nci.json]

Docids are those of hierarchical k-means with k = c = 30 over 20,000 documents, which are three codes, in a vocabulary
of their own; 4 adaptive layers, a matrix of 512 x 512 said by 512 numbers, or by 64. What is timed:

* a decoding step of 8 queries with 20 beams: of T5, of the network with the adaptive decoder computed at every step,
  and of the network that is searched with, whose vectors of all docids were computed before;
* a training step of 32 rows with 64 encoder tokens, its update by AdamW included: of T5, with the adaptive decoder of
  64 numbers, and with two passes for consistency.

All are compiled in one process and take turns; ratios are those of medians to T5's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_sides import genret_jax_steps, machine

from genret_jax.models import T5, NodeTree, T5Config
from genret_jax.models.folding import folded_shape
from genret_jax.models.network import random_variables
from genret_jax.training import AdamW, Constant, TrainerConfig
from genret_jax.training.docid_task import RetrievalTask

DOCUMENTS, CODES, FIRST, LENGTH = 20_000, 30, 2, 3
QUERIES, BEAMS, ROWS, SOURCE, DOCID_TOKENS = 8, 20, 32, 64, 96
PLAIN = T5Config(decoder_vocab_size=DOCID_TOKENS)
NETWORKS = {
    "t5": PLAIN,
    "adaptive": T5Config(decoder_vocab_size=DOCID_TOKENS, adaptive_layers=4),
    "adaptive_64": T5Config(decoder_vocab_size=DOCID_TOKENS, adaptive_layers=4, adaptive_width=64),
}


def docids() -> np.ndarray:
    """Return the tokens of this many docids of three codes, each level with tokens of its own."""
    numbers = np.arange(DOCUMENTS)
    codes = np.stack([numbers // CODES**2, numbers // CODES % CODES, numbers % CODES], 1)
    return codes.astype(np.int32) + FIRST + CODES * np.arange(LENGTH, dtype=np.int32)


def docid_tree(tokens: np.ndarray) -> NodeTree:
    """Return the tree of docids that lie in order, nodes numbered level by level."""
    parents, edges, begin = [], [], 1
    above = np.zeros(len(tokens), np.int64)
    for depth in range(1, LENGTH + 1):
        prefixes, first, prefix = np.unique(tokens[:, :depth], axis=0, return_index=True, return_inverse=True)
        parents.append(above[first])
        edges.append(prefixes[:, -1])
        above = begin + prefix.reshape(-1)
        begin += len(prefixes)
    fanout = np.bincount(np.concatenate(parents), minlength=begin)
    return NodeTree.build(np.concatenate([[0], np.cumsum(fanout)]), np.arange(1, begin), np.concatenate(edges))


class OneBatch:
    """A sampler that always gives the same examples."""

    def batch(self, step: int, rows: None = None) -> dict[str, np.ndarray]:
        """Return the batch."""
        generator = np.random.default_rng(0)
        target = docids()[generator.integers(0, DOCUMENTS, ROWS)]
        return {
            "encoder_input_tokens": generator.integers(2, PLAIN.vocab_size, (ROWS, SOURCE), dtype=np.int32),
            "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": target,
            "decoder_loss_weights": np.ones(target.shape, np.float32),
            "decoder_prefix_nodes": np.zeros_like(target),
        }


def decoding(config: T5Config, tree: NodeTree | None) -> Callable[[], None]:
    """Return a function that makes the second step of a search, whose prefixes are all those of one code."""
    params = jax.jit(random_variables, static_argnums=0)(config, jax.random.key(0), tree)["params"]
    source = jnp.asarray(np.random.default_rng(0).integers(2, PLAIN.vocab_size, (QUERIES, SOURCE), dtype=np.int32))
    model, variables = T5(config), {"params": params}
    beams = jnp.broadcast_to(jnp.arange(BEAMS, dtype=jnp.int32), (QUERIES, BEAMS))

    @jax.jit
    def first(variables: dict) -> tuple:
        encoded = model.apply(variables, source, method=T5.encode)
        cache = model.apply(variables, encoded, source, LENGTH, method=T5.init_cache)
        start = jnp.zeros((QUERIES, 1), jnp.int32)
        cache = model.apply(variables, start, start, cache, tree, method=T5.step)[1]
        return {**cache, "beams": jax.tree.map(lambda leaf: jnp.repeat(leaf, BEAMS, axis=1), cache["beams"])}

    cache = jax.block_until_ready(first(variables))
    step = jax.jit(
        lambda variables, cache: model.apply(variables, FIRST + beams, 1 + beams, cache, tree, method=T5.step)
    )
    return lambda: jax.block_until_ready(step(variables, cache)) and None


def training(config: T5Config, consistency: float = 0.0) -> Callable[[], float]:
    """Return a function that makes a training step."""
    trainer = TrainerConfig(
        steps=1000, batch_size=ROWS, optimizer=AdamW(learning_rate=Constant(rate=1e-4)), log_every=1,
        steps_per_dispatch=1,
    )  # fmt: skip
    return genret_jax_steps(RetrievalTask(config, OneBatch(), None, consistency=consistency), trainer)


def take_turns(sides: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each side's calls, which alternate; the first two of each compile and warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 2):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Return medians with quartiles, and ratios to T5."""
    base = statistics.median(seconds["t5"])
    return {
        name: {
            "median_seconds": round(statistics.median(found), 4),
            "quartiles_seconds": [round(q, 4) for q in statistics.quantiles(found, n=4)[::2]],
            "to_t5": round(statistics.median(found) / base, 2),
        }
        for name, found in seconds.items()
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="counted calls of each side")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/nci.json"))
    arguments = parser.parse_args()
    tree = docid_tree(docids())
    searched = folded_shape(NETWORKS["adaptive"], len(tree.child_offsets) - 1)
    steps = {name: decoding(config, None) for name, config in NETWORKS.items()} | {"searched": decoding(searched, tree)}
    found = {"decoding_step": summary(take_turns(steps, 5 * arguments.turns))}
    del steps
    trained = {name: training(NETWORKS[name]) for name in ("t5", "adaptive_64")}
    trained["consistency"] = training(PLAIN, 0.15)
    found["training_step"] = summary(take_turns(trained, arguments.turns))
    result = {
        "what": f"T5 1.1 small, {LENGTH} codes of {CODES}; decoding {QUERIES} queries with {BEAMS} beams, training "
        f"{ROWS} rows of {SOURCE} tokens, float32, CPU",
        **found,
        "turns": {"decoding_step": 5 * arguments.turns, "training_step": arguments.turns},
        **machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
