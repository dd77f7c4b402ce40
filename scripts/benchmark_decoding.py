#!/usr/bin/env python
"""Time the beam search constrained to a set of docids against the unconstrained one, interleaved, same model and beam.

Example:
    python scripts/benchmark_decoding.py --documents 100000 --out benchmarks/results/decoding.json
"""

import argparse
import functools
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

import genret_jax
from genret_jax.decoding import DocidIndex, TrieConstraint, Unconstrained, beam_search
from genret_jax.models import T5, T5Config
from genret_jax.storage import write_json

LENGTH, CODES, FIRST_TOKEN = 8, 256, 2
VOCAB = FIRST_TOKEN + CODES


def random_docids(documents: int, kind: str) -> np.ndarray:
    """Distinct docids of LENGTH codes each, uniform or Zipf-distributed at every level."""
    random = np.random.default_rng(0)
    weights = np.ones(CODES) if kind == "uniform" else 1 / np.arange(1, CODES + 1)
    codes = random.choice(CODES, (documents * 2, LENGTH), p=weights / weights.sum())
    return random.permutation(np.unique(codes, axis=0))[:documents] + FIRST_TOKEN


def searches(index: DocidIndex, batch: int, beams: int) -> dict:
    """Compiled searches by name, with and without the model (whose logits a table then gives)."""
    model = T5(T5Config(decoder_vocab_size=VOCAB, num_encoder_layers=1, num_decoder_layers=6, num_heads=8, d_ff=1024))
    inputs = jnp.ones((batch, 32), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), inputs, jnp.ones((batch, LENGTH), jnp.int32))["params"]
    encoded = model.apply({"params": params}, inputs, method=T5.encode)
    table = jax.random.normal(jax.random.key(1), (VOCAB, VOCAB)) * 3

    @functools.partial(jax.jit)
    def decode(params: dict, strategy) -> jax.Array:
        variables = {"params": params}
        cache = model.apply(variables, encoded, inputs, LENGTH, method=T5.init_cache)

        def step(tokens, prefix_nodes, cache, *, first):
            return model.apply(variables, tokens, prefix_nodes, cache, None, method=T5.step)

        return beam_search(step, cache, strategy, batch=batch, beams=beams).scores

    @jax.jit
    def select(table: jax.Array, strategy) -> jax.Array:
        def step(tokens, prefix_nodes, cache, *, first):
            return table[tokens], cache

        return beam_search(step, {"beams": {}}, strategy, batch=batch, beams=beams).scores

    sides = {
        "constrained": TrieConstraint(jax.device_put(index)),
        "unconstrained": Unconstrained(vocab_size=VOCAB, max_length=LENGTH, eos=None),
    }
    return {
        f"{what}_{side}": functools.partial(run, argument, strategy)
        for side, strategy in sides.items()
        for what, run, argument in (("decode", decode, params), ("selection", select, table))
    }


def interleaved(runs: dict, repeats: int) -> dict:
    """Milliseconds of each run, all of them once a round; medians and quartiles."""
    times = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append((time.perf_counter() - start) * 1e3)
    report = {
        name: dict(zip(("low", "median", "high"), np.percentile(t, [25, 50, 75]).round(3).tolist(), strict=True))
        for name, t in times.items()
    }
    for what in ("decode", "selection"):
        ratios = np.array(times[f"{what}_constrained"]) / np.array(times[f"{what}_unconstrained"])
        report[f"{what}_ratio"] = round(float(np.median(ratios)), 3)
    return report


def main() -> None:
    """Run all settings and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", default="benchmarks/results/decoding.json")
    arguments = parser.parse_args()
    rows = []
    for kind in ("uniform", "zipf"):
        tokens = random_docids(arguments.documents, kind)
        lengths, document = np.full(len(tokens), LENGTH), np.arange(len(tokens))
        start = time.perf_counter()
        index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
        build = time.perf_counter() - start
        for batch, beams in ((1, 10), (1, 100), (8, 10)):
            row = {
                "docids": kind,
                "documents": len(tokens),
                "batch": batch,
                "beams": beams,
                "build_seconds": round(build, 2),
                "index_bytes_per_document": round(index.num_bytes / len(tokens), 1),
                "milliseconds": interleaved(searches(index, batch, beams), arguments.repeats),
            }
            rows.append(row)
            print(row, flush=True)
    write_json(
        arguments.out,
        {
            "what": "8-token docids, 256 codes a level, T5-small-shaped decoder (6 layers, d 512); one query batch",
            "versions": {"genret_jax": genret_jax.__version__, "jax": jax.__version__},
            "hardware": f"{jax.devices()[0].device_kind}, {jax.local_device_count()} device(s), {platform.machine()}",
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
