"""What a report says about a run: its mode, its cost, how its docids were learned, and how exact its search is."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np

from genret_jax.data.splits import evenly_spread
from genret_jax.evaluation.report import cost
from genret_jax.inference import Ranker
from genret_jax.models.config import T5Config
from genret_jax.parallel.mesh import logical_axes
from genret_jax.problems import Problem, Requests
from genret_jax.training import read_metrics
from genret_jax.training.initial import jitted_variables

# The beam search is compared with the exhaustive one on this many requests, unless there are more docids than this.
_EXHAUSTIVE_REQUESTS, _EXHAUSTIVE_DOCIDS = 32, 10_000


def description(run: Problem, checkpoint: str | int) -> str:
    """Return one line about a run: its docids, the scores that take part in its search, and the checkpoint."""
    which = "before its first step" if checkpoint == "start" else f"checkpoint '{checkpoint}'"
    return f"{run.table.strategy['name']} docids, {mode(run.model, int(run.table.lengths.max()))}, {which}"


def mode(model: T5Config, codes: int) -> str:
    """Return which scores take part in a search.

    Args:
        model: The network.
        codes: Most codes of a docid.
    """
    if codes == 1:
        decoder = "one code per document"
    else:
        decoder = "a vector per prefix of codes" if model.head == "prefix" else "codes only"
    if model.plan is None:
        return decoder
    used = {"words": model.plan.terms, "vectors": model.plan.dense, "codes": model.plan.codes}
    *others, last = [name for name, is_used in used.items() if is_used]
    plan = f"plan of {', '.join(others)} and {last}" if others else f"plan of {last}"
    layers = model.num_decoder_layers
    return f"{plan}, {layers or 'no'} decoder layer{'' if layers == 1 else 's'}"


def details(run: Problem, ranker: Ranker, requests: Requests, depth: int) -> dict[str, Any]:
    """Return the size of a run and facts about its docids and its search.

    Args:
        run: The run.
        ranker: Its network and docids.
        requests: Some of them are searched exhaustively.
        depth: Beams of the search.
    """
    parts = {**ranker.docid_bytes, "rows of the network": 4 * _rows_of_docids(run)}
    documents, parameters = len(run.corpus), sum(leaf.size for leaf in jax.tree.leaves(ranker.params))
    return {
        **cost(num_bytes=sum(parts.values()), documents=documents, parameters=parameters),
        "bytes per document by part": {part: round(size / documents, 1) for part, size in parts.items() if size},
        "beams": depth,
        **_codebooks(run.table.strategy),
        **_beside_exhaustive(ranker, requests, depth),
    }


def budget(run: Problem) -> dict[str, Any]:
    """Return the steps, seed and seconds of training, from its log."""
    records = read_metrics(run.folder)
    steps = max((record["step"] for record in records), default=0)
    rates = [record["steps_per_second"] for record in records if record.get("steps_per_second")]
    seconds = {"training seconds": round(steps / float(np.median(rates)))} if rates else {}
    return {"steps": steps, "seed": run.seed, **seconds}


def _rows_of_docids(run: Problem) -> int:
    """Count the parameters in rows of nodes of the docid tree, and of tokens of which every document has its own."""
    variables = jax.eval_shape(lambda: jitted_variables(run.model, jax.random.key(run.seed), run.tree))
    axes, tokens = logical_axes(variables), run.model.output_vocab_size
    own = sum(size for size in run.codec.level_sizes if size >= len(run.corpus))
    count = 0
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items():
        names = axes.get(path, ())
        if "nodes" in names:
            count += leaf.size
        elif "vocab" in names and leaf.shape[names.index("vocab")] == tokens:
            count += leaf.size // tokens * own
    return count


def _codebooks(strategy: Mapping[str, Any]) -> dict[str, str]:
    """Describe how codebooks were used while docids were learned, where they were."""
    levels: dict[int, list[Mapping[str, Any]]] = {}
    for at in strategy.get("course", []):
        levels.setdefault(at["level"], []).append(at)
    described = {}
    for level, course in levels.items():
        used = ", ".join(f"{at['perplexity']:.1f}" for at in course)
        last = course[-1]
        described[f"codebook {level}"] = (
            f"perplexity {used} of {last['size']} while it was learned, {last['used']} codes used, "
            f"{last['prefixes']:,} docids of {last['rows']:,} documents so far"
        )
    return described


def _beside_exhaustive(ranker: Ranker, requests: Requests, depth: int) -> dict[str, str]:
    """Describe how far the beam search is from scoring every docid, for requests that are texts."""
    if ranker.index.num_docids > _EXHAUSTIVE_DOCIDS or not requests.texts:
        return {}
    chosen = requests.tokens[evenly_spread(np.arange(len(requests.tokens)), _EXHAUSTIVE_REQUESTS)]
    shares = ranker.beside_exhaustive(chosen, beam=depth)
    described = f"{shares['found']:.1%} of the true best 10 found, {shares['certified']:.0%} of queries certified"
    return {f"beside exhaustive search ({len(chosen)} queries)": described}
