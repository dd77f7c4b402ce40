"""Time a training step of T5 1.1 small beside PyTorch's, on the CPU.

    python scripts/benchmark_train_step.py [--steps 12] [--out benchmarks/results/train_step.json]

Both sides have the shape of T5 1.1 small (8 + 8 layers, width 512, vocabulary 32,128), float32, a batch of 32 with 64
encoder and 8 decoder tokens, the same tokens, T5's dropout of 0.1, and AdamW. Ours is the step that `genret train`
runs, with its metrics. Theirs is transformers' T5ForConditionalGeneration with torch.optim.AdamW, once as constructed
by default and once with fused=True, each in a process of its own. The three processes take turns, a step each, so that
whatever else the machine does falls on all of them; the ratio is that of the medians.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmark_sides import machine, serve, take_turns

ROWS, SOURCE, TARGET, VOCABULARY = 32, 64, 8, 32128
SIDES = ("genret_jax", "torch", "torch_fused")


def tokens() -> tuple["np.ndarray", "np.ndarray"]:
    """Return the batch that both sides train on."""
    generator = np.random.default_rng(0)
    return (
        generator.integers(2, VOCABULARY, (ROWS, SOURCE), dtype=np.int32),
        generator.integers(2, VOCABULARY, (ROWS, TARGET), dtype=np.int32),
    )


class OneBatch:
    """A sampler that always gives the same examples."""

    def batch(self, step: int) -> dict[str, "np.ndarray"]:
        """Return the batch."""
        source, target = tokens()
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": target,
            "decoder_loss_weights": np.ones(target.shape, np.float32),
            "decoder_prefix_nodes": np.zeros_like(target),
        }


def genret_jax_step() -> Callable[[], float]:
    """Return a function that makes one step of ours, as training dispatches it, and returns the loss."""
    import jax

    from genret_jax.models import T5Config
    from genret_jax.training import AdamW, Constant, TrainerConfig
    from genret_jax.training.checkpoints import Checkpoints
    from genret_jax.training.mesh import placed_on
    from genret_jax.training.retrieval_task import RetrievalTask
    from genret_jax.training.start import prepare

    config = TrainerConfig(
        steps=1000,
        batch_size=ROWS,
        optimizer=AdamW(learning_rate=Constant(rate=1e-4), weight_decay=0.01),
        clip_norm=None,
        log_every=1,
    )
    task = RetrievalTask(T5Config(), OneBatch(), None)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=1) as checkpoints:
        start = prepare(task, config, checkpoints, init_params=None, fingerprint={})
    state, batches = start.state, jax.tree.map(lambda x: x[None], task.batch(0))

    def step() -> float:
        nonlocal state
        with placed_on(start.mesh):
            state, report = start.run_steps(state, batches, np.int32(1))
        total, weight = report["totals"]["loss"]
        return float(total / weight)

    return step


def torch_step(fused: bool) -> Callable[[], float]:
    """Return a function that makes one step of PyTorch's and returns the loss."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_heads=6,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    # transformers 5 ties the head whatever the configuration says; T5 1.1 has a head of its own.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 512) * 512**-0.5)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=fused or None)
    source, target = (torch.from_numpy(part).long() for part in tokens())
    mask = (source > 0).long()

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=source, attention_mask=mask, labels=target).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    """Run all sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="counted steps of each side")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train_step.json"))
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        fused = arguments.serve == "torch_fused"
        serve(genret_jax_step if arguments.serve == "genret_jax" else lambda: torch_step(fused))
        return
    sides = take_turns(__file__, SIDES, arguments.steps)
    ours = statistics.median(sides["genret_jax"].seconds)
    result = {
        "what": "one training step: T5 1.1 small, batch 32, 64 encoder and 8 decoder tokens, AdamW, float32, CPU",
        **{name: side.summary() for name, side in sides.items()},
        "steps_per_second_relative_to": {
            name: round(statistics.median(sides[name].seconds) / ours, 2) for name in SIDES[1:]
        },
        **machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    import numpy as np

    main()
