"""Time TIGER's training beside PyTorch's, on the CPU.

    python scripts/benchmark_history_step.py [--turns 5] [--out benchmarks/results/history_step.json]

All sides train in float32 by AdamW on made-up histories as long as those of Amazon Beauty: 22,363 users with at least
five items, 8.9 on average, of which at most the last 20 are shown; an item's id is three random codes of 256 and one
that separates.

* ``torch``, ``torch_fused``: transformers' T5ForConditionalGeneration as the paper's network (4 + 4 layers, width 128,
  six heads of 64, feed-forward layers of 1,024 with ReLU, dropout 0.1, 5.2 million parameters), 256 targets a batch,
  which is as long as its longest history, with torch.optim.AdamW as it is constructed by default, and with
  ``fused=True``;
* ``paper``: that network and batch as ``runs/tiger_paper.gin`` trains them; histories lie on the device, ten steps a
  call;
* ``paper_fed``: the same with one step a call;
* ``tuned``: the step of ``runs/tiger.gin``, another network, whose encoder reads a history once for all of its items as
  targets; ten steps a call.

Each is a process of its own, and they take turns of ten steps. Figures are of targets a second, as steps differ,
and relative to the faster one of PyTorch's.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmark_sides import genret_jax_steps, machine, serve, take_turns, torch_step

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.histories import HistoryConfig, history_tokens
from genret_jax.data.examples.history_examples import HistoryExamples, PackedHistories
from genret_jax.data.interactions import Interactions, write_interactions

SIDES = ("torch", "torch_fused", "paper", "paper_fed", "tuned")
USERS, ITEMS, LEVELS, CODES, ROWS, STEPS = 22363, 12101, 4, 256, 256, 10
USER_TOKENS = 2000


def interactions() -> Interactions:
    """Return histories of Beauty's size and lengths, of items drawn at random."""
    rng = np.random.default_rng(0)
    lengths = 4 + np.minimum(rng.geometric(1 / 4.9, USERS), 200)
    ids = tuple(f"i{number}" for number in range(ITEMS))
    titles = tuple(f"thing {number % 997} of {number // 997}" for number in range(ITEMS))
    return Interactions(
        items=Corpus(name="made up", doc_ids=ids, titles=titles, texts=titles),
        user_ids=tuple(f"u{number}" for number in range(USERS)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item=rng.integers(0, ITEMS, lengths.sum(), dtype=np.int32),
    )


def steps_of(side: str) -> Callable[[], float]:
    """Return a function that makes ten steps of a side and returns the last loss."""
    if side.startswith("torch"):
        return torch_steps(fused=side == "torch_fused")
    from genret_jax.config.gin_files import experiment_from_gin
    from genret_jax.run import prepare

    at_once = 1 if side == "paper_fed" else STEPS
    recipe = "runs/tiger.gin" if side == "tuned" else "runs/tiger_paper.gin"
    with tempfile.TemporaryDirectory() as folder:
        write_interactions(interactions(), Path(folder) / "shop")
        bindings = [
            f"CORPUS = '{folder}/shop'",
            f"RUN = '{folder}/run'",
            f"TrainerConfig.steps_per_dispatch = {at_once}",
            "TrainerConfig.clip_norm = 1.0",
            "TrainerConfig.optimizer = @AdamW()",
            "AdamW.learning_rate = @Constant()",
            "Constant.rate = 1e-3",
            "AdamW.weight_decay = 0.01",
        ]
        _, experiment = experiment_from_gin([recipe, "ablations/ids_random.gin"], bindings)
        run = prepare(experiment, Path(folder) / "run", log=lambda line: None)
        call = genret_jax_steps(run.task(), experiment.trainer, run.start_params())
    return lambda: [call() for _ in range(STEPS // at_once)][-1]


def torch_steps(*, fused: bool) -> Callable[[], float]:
    """Return a function that makes ten steps of PyTorch's, each on a batch as long as its longest history."""
    paper = {"d_model": 128, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 6, "feed_forward_proj": "relu"}
    update = torch_step(vocabulary=2 + CODES * LEVELS + USER_TOKENS, rate=1e-3, fused=fused, clip=1.0, **paper)
    data, histories = interactions(), HistoryConfig(user_tokens=USER_TOKENS)
    examples = HistoryExamples.of(data, histories)
    docids = np.random.default_rng(1).integers(0, CODES, (ITEMS, LEVELS)) + 2 + CODES * np.arange(LEVELS)
    users = 2 + CODES * LEVELS + histories.user_numbers(data.user_ids)
    rng = np.random.default_rng(2)

    def step() -> float:
        chosen = rng.integers(0, len(examples), ROWS)
        begin, end = examples.begin[chosen, None], examples.place[chosen, None]
        places = begin + np.arange((end - begin).max())
        items = np.where(places < end, examples.item[np.where(places < end, places, 0)], -1)
        source = history_tokens(items, docids.astype(np.int32), users[examples.user[chosen]])
        return update(source, docids[examples.item[examples.place[chosen]]])

    return lambda: [step() for _ in range(STEPS)][-1]


def targets_of_a_step(side: str) -> float:
    """Return how many items a step predicts."""
    if side != "tuned":
        return float(ROWS)
    packed = PackedHistories.of(interactions(), HistoryConfig().items)
    return float((packed.targets >= 0).sum() / len(packed) * 16)


def main() -> None:
    """Run all sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="turns of ten steps that are counted")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/history_step.json"))
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if side := arguments.serve:
        serve(lambda: steps_of(side))
        return
    sides = take_turns(__file__, SIDES, arguments.turns)
    rates = {name: STEPS * targets_of_a_step(name) / statistics.median(side.seconds) for name, side in sides.items()}
    torch = max(rate for name, rate in rates.items() if name.startswith("torch"))
    result = {
        "what": "training of TIGER's network on histories as long as Amazon Beauty's; seconds are of ten steps",
        **{
            name: {"targets_a_step": round(targets_of_a_step(name), 1), **side.summary()}
            for name, side in sides.items()
        },
        "targets_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "relative_to_torch": {name: round(rate / torch, 2) for name, rate in rates.items()},
        **machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
