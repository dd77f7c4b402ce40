#!/usr/bin/env python
"""Compile a training step and constrained decoding for a TPU, without one, and say what the compiler expects of them.

Example:
    pip install 'jax[tpu]'      # libtpu has the compiler; it needs no TPU for this
    python scripts/compile_for_tpu.py --documents 1000000 --out benchmarks/results/tpu_compile.json

Nothing runs: arguments are shapes with shardings over the devices of a topology (``jax.experimental.topologies``).

* Training: the steps of two shipped recipes as ``genret train`` compiles them, on a mesh of data and model axes.
* Decoding: the function that ``Retriever`` calls, encoder included, for a T5-small shape, docids of 8 codes of 256 and
  any number of documents, the queries of a batch spread over the chips; beside it the same search ``Unconstrained``.

All figures are for one chip. The compiler counts a loop's body once, however often it runs. So each decoding is
compiled twice: as it is, which gives memory and the proof that it compiles, and with the search's loop written out,
turn after turn, which gives flops and bytes accessed of the whole. ``selection_...`` are searches whose model is one
multiplication a logit: what is left is the search itself, and its share of the whole decoding.

How the compiler counts a gather matters for the constraint: ``gathers`` has the same 20,480 numbers read one by one and
as 80 windows of 256. Read one by one, each is counted as a tile of 4 KiB, and a large array is moved to fast memory.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any

# Said before libtpu is loaded, which otherwise asks a network for the TPU that is not there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from genret_jax.config.experiment import Experiment
from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.decoding import BeamResult, DocidIndex, TrieConstraint, Unconstrained, beam_search
from genret_jax.decoding.layout import Level
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.evaluation.environment import environment
from genret_jax.inference import node_tree
from genret_jax.models import T5, T5Config
from genret_jax.parallel.mesh import DATA, MODEL, placed_on
from genret_jax.planning.docids import WrittenOut, written_out
from genret_jax.planning.programs import shapes_on
from genret_jax.storage import write_json
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.step import plan_steps

LENGTH, CODES, FIRST_TOKEN = 8, 256, 2
VOCAB = FIRST_TOKEN + LENGTH * CODES
QUERY_LENGTH = 32
RECIPES = {
    "T5 1.1 small, as published DSI (runs/dsi_t5.gin)": ("runs/dsi_t5.gin", "T5 = 'not read'"),
    "from scratch, prefix head (runs/from_scratch.gin)": ("runs/from_scratch.gin", "T5Config.head = 'prefix'"),
}


def mesh_of(topology: Any, model_parallel: int) -> Mesh:
    """Return the topology's devices as the mesh that training and search know."""
    devices = np.array(topology.devices).reshape(-1, model_parallel)
    return Mesh(devices, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def analysis(lowered: Any) -> dict[str, Any]:
    """Compile, and return what the compiler says of time and memory of one chip."""
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    return {
        "compile_seconds": round(seconds, 1),
        "bytes": {kind: int(getattr(memory, f"{kind}_size_in_bytes")) for kind in kinds},
        "flops": int(cost["flops"]),
        "bytes_accessed": int(cost["bytes accessed"]),
    }


# Training --------------------------------------------------------------------------------------------------------


def random_docids(documents: int, codes: int, levels: int) -> np.ndarray:
    """Return distinct sequences of codes, ``[n, m]``."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, codes, (documents + documents // 8 + 64, levels), dtype=np.int32)
    return random.permutation(np.unique(drawn, axis=0))[:documents]


def task_of(experiment: Experiment) -> RetrievalTask:
    """Return the recipe's task; a prefix head gets the docids of 2,000 documents, as no corpus is read."""
    config, tree = experiment.model, None
    if config.head == "prefix":
        codes = random_docids(2000, 64, 2)
        table = DocidTable.from_codes(
            [str(number) for number in range(len(codes))], codes, strategy={}, corpus_fingerprint=""
        )
        codec = DocidCodec(kind="per_level", first_token=FIRST_TOKEN, level_sizes=table.level_sizes, eos="needed")
        encoded = codec.encode(table)
        config = dataclasses.replace(
            config, vocab_size=8064, decoder_vocab_size=codec.vocab_size, num_nodes=encoded.tree.num_nodes
        )
        tree = node_tree(encoded)
    return RetrievalTask(config, None, tree, z_loss=experiment.z_loss, label_smoothing=experiment.label_smoothing)


def batch_shapes(rows: int, inputs: int, targets: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a training batch."""
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_prefix_nodes", "decoder_loss_weights")
    shapes = {name: jax.ShapeDtypeStruct((rows, targets), np.int32) for name in names}
    shapes["decoder_loss_weights"] = jax.ShapeDtypeStruct((rows, targets), np.float32)
    return {"encoder_input_tokens": jax.ShapeDtypeStruct((rows, inputs), np.int32), **shapes}


def training(files: tuple[str, ...], mesh: Mesh) -> dict[str, Any]:
    """Compile the training step of a recipe."""
    _, experiment = experiment_from_gin(files[:1], [*files[1:], "CORPUS = 'not read'", "RUN = 'not read'"])
    trainer, task = experiment.trainer, task_of(experiment)
    targets = LENGTH if task.tree is None else 2
    batch = batch_shapes(trainer.batch_size, experiment.sampler.input_length, targets)
    steps: Any = plan_steps(task, trainer, mesh, batch)
    stacked = {name: jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype) for name, shape in batch.items()}
    stacked = shapes_on(mesh, stacked, None, DATA)
    with placed_on(mesh):
        count = shapes_on(mesh, jax.ShapeDtypeStruct((), np.int32))
        lowered = steps.run_steps.lower(steps.like, stacked, count, shapes_on(mesh, task.arrays))
        found = analysis(lowered)
    parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(steps.like.params))
    return {
        "mesh": dict(mesh.shape),
        "batch_size": trainer.batch_size,
        "input_length": experiment.sampler.input_length,
        "parameters": parameters,
        **found,
    }


def all_training(topology: Any, model_parallel: int) -> dict[str, Any]:
    """Compile the training steps of all recipes."""
    found = {}
    for name, files in RECIPES.items():
        progress(f"training: {name}")
        found[name] = training(files, mesh_of(topology, model_parallel))
    return found


# Decoding --------------------------------------------------------------------------------------------------------


def index_of(documents: int) -> DocidIndex:
    """Return the index of random docids, a token per level and code."""
    tokens = random_docids(documents, CODES, LENGTH) + FIRST_TOKEN + np.arange(LENGTH, dtype=np.int32) * CODES
    return DocidIndex.build(tokens, np.full(len(tokens), LENGTH), np.arange(len(tokens)), vocab_size=VOCAB)


def search_t5(
    params: Any, tokens: Any, index: DocidIndex, *, config: T5Config, beams: int, constrain: bool
) -> BeamResult:
    """Search one token after the other, so that every step is counted on both sides."""
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, LENGTH, method=T5.init_cache)

    def step(tokens: Any, prefix_nodes: Any, cache: Any, *, first: bool) -> tuple[Any, Any]:
        return model.apply(variables, tokens, prefix_nodes, cache, None, method=T5.step)

    strategy = TrieConstraint(index) if constrain else free(index)
    return beam_search(step, cache, strategy, batch=tokens.shape[0], beams=beams)


def selection(row: Any, tokens: Any, index: DocidIndex, *, beams: int, constrain: bool) -> BeamResult:
    """Search a model whose logits cost next to nothing, but are written out as a real model's are."""

    def step(tokens: Any, prefix_nodes: Any, cache: Any, *, first: bool) -> tuple[Any, Any]:
        return jax.lax.optimization_barrier(row[None, None] * tokens[..., None]), cache

    strategy = TrieConstraint(index) if constrain else free(index)
    return beam_search(step, {"beams": {}}, strategy, batch=tokens.shape[0], beams=beams)


def free(index: DocidIndex) -> Unconstrained:
    """Return the strategy that allows every token for the length of the docids, with separate code for every step."""
    kind = WrittenOutUnconstrained if isinstance(index.layout, WrittenOut) else Unconstrained
    return kind(vocab_size=VOCAB, max_length=LENGTH, eos=None)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenOutUnconstrained(Unconstrained):
    """Every depth by code of its own, as :func:`genret_jax.planning.docids.written_out` has it of an index."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The depths one by one."""
        return tuple(
            Level(depth, depth + 1, *level[2:]) for level in super().levels for depth in range(level.start, level.stop)
        )


def decoding(mesh: Mesh, index: DocidIndex, batch: int, beams: int) -> dict[str, Any]:
    """Compile searches with and without the constraint."""
    config, token = T5Config.t5_1_0_small(decoder_vocab_size=VOCAB), jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(T5(config).init, jax.random.key(0), token, token)["params"]
    row = jax.ShapeDtypeStruct((VOCAB,), jnp.float32)
    tokens = shapes_on(mesh, jax.ShapeDtypeStruct((batch, QUERY_LENGTH), jnp.int32), DATA)
    searches = {
        "constrained": (params, functools.partial(search_t5, config=config, beams=beams, constrain=True)),
        "unconstrained": (params, functools.partial(search_t5, config=config, beams=beams, constrain=False)),
        "selection_constrained": (row, functools.partial(selection, beams=beams, constrain=True)),
        "selection_unconstrained": (row, functools.partial(selection, beams=beams, constrain=False)),
    }
    found = {}
    for name, (model, search) in searches.items():
        progress(f"decoding, {beams} beams: {name}")
        arguments = (shapes_on(mesh, model), tokens)
        found[name] = analysis(jax.jit(search).lower(*arguments, shapes_on(mesh, index)))
        whole = analysis(jax.jit(search).lower(*arguments, shapes_on(mesh, written_out(index))))
        found[name] |= {field: whole[field] for field in ("flops", "bytes_accessed")}
    return {"batch": batch, "beams": beams, **found, "share_of_the_constraint": shares(found)}


def shares(found: dict[str, Any]) -> dict[str, float]:
    """Return what the constraint adds to a whole decoding, and what all of the search takes of it."""
    with_it, without = found["constrained"], found["unconstrained"]
    ratios = {
        f"{field}_of_constrained_by_unconstrained": with_it[field] / without[field]
        for field in ("flops", "bytes_accessed")
    }
    ratios["temp_bytes_of_constrained_by_unconstrained"] = with_it["bytes"]["temp"] / without["bytes"]["temp"]
    ratios["flops_of_selection_by_constrained"] = found["selection_constrained"]["flops"] / with_it["flops"]
    return {name: round(ratio, 4) for name, ratio in ratios.items()}


def gathers(mesh: Mesh, entries: int) -> dict[str, Any]:
    """Compile reads of the same size from an array of 16-bit numbers, one by one and window by window."""
    column = shapes_on(mesh, jax.ShapeDtypeStruct((entries,), jnp.uint16))

    def windows(column: Any, starts: Any) -> Any:
        return jax.vmap(lambda start: jax.lax.dynamic_slice(column, (start,), (256,)))(starts)

    ways = {"one_by_one": (20480, lambda column, places: column[places]), "windows_of_256": (80, windows)}
    found = {}
    for name, (reads, read) in ways.items():
        places = shapes_on(mesh, jax.ShapeDtypeStruct((reads,), jnp.int32))
        found[name] = analysis(jax.jit(read).lower(column, places))["bytes_accessed"]
    return {"entries": entries, "bytes_accessed": found}


def all_decoding(topology: Any, documents: int, batch: int, beams: list[int]) -> dict[str, Any]:
    """Compile the searches for all numbers of beams."""
    progress(f"index of {documents:,} docids")
    index = index_of(documents)
    return {
        "what": "T5 1.0 small shape, 32 query tokens, docids of 8 codes of 256, float32, queries spread over the chips",
        "documents": index.num_docids,
        "index_bytes": index.num_bytes,
        "gathers": gathers(mesh_of(topology, 1), documents),
        "results": [decoding(mesh_of(topology, 1), index, batch, width) for width in beams],
    }


# -----------------------------------------------------------------------------------------------------------------


def progress(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def topology_of(name: str) -> Any:
    """Return the topology, or end the script if the compiler is not there."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except Exception as error:  # jaxlib raises its own kinds for a missing library and for an unknown name
        raise SystemExit(f"no topology {name!r} ({error}); install libtpu by: pip install 'jax[tpu]'") from None


def arguments_of(command_line: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="as libtpu names it")
    parser.add_argument("--model-parallel", type=int, default=2, help="chips that share parameters in training")
    parser.add_argument("--documents", type=int, default=1_000_000, help="docids of the index")
    parser.add_argument("--batch", type=int, default=32, help="queries searched together, over all chips")
    parser.add_argument("--beams", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--parts", nargs="+", choices=("training", "decoding"), default=["training", "decoding"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tpu_compile.json"))
    return parser.parse_args(command_line)


def main() -> None:
    """Compile everything and write the result."""
    arguments = arguments_of()
    topology = topology_of(arguments.topology)
    parts = {
        "training": lambda: all_training(topology, arguments.model_parallel),
        "decoding": lambda: all_decoding(topology, arguments.documents, arguments.batch, arguments.beams),
    }
    result = {
        "what": "compiled ahead of time, never run; all figures of one chip, by the compiler's own count",
        "topology": f"{arguments.topology}: {len(topology.devices)} x {topology.devices[0].device_kind}",
        **{name: compile_part() for name, compile_part in parts.items() if name in arguments.parts},
        "libtpu": importlib.metadata.version("libtpu"),
        "environment": environment(),
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
