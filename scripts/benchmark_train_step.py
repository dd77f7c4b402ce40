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
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmark_sides import genret_jax_steps, machine, serve, take_turns, torch_step

ROWS, SOURCE, TARGET, VOCABULARY = 32, 64, 8, 32128
SIDES = ("genret_jax", "torch", "torch_fused")


def tokens() -> tuple[np.ndarray, np.ndarray]:
    """Return the batch that both sides train on."""
    generator = np.random.default_rng(0)
    return (
        generator.integers(2, VOCABULARY, (ROWS, SOURCE), dtype=np.int32),
        generator.integers(2, VOCABULARY, (ROWS, TARGET), dtype=np.int32),
    )


class OneBatch:
    """A sampler that always gives the same examples."""

    def batch(self, step: int, rows: None = None) -> dict[str, np.ndarray]:
        """Return the batch."""
        source, target = tokens()
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": target,
            "decoder_loss_weights": np.ones(target.shape, np.float32),
            "decoder_prefix_nodes": np.zeros_like(target),
        }


def step_of(side: str) -> Callable[[], float]:
    """Return a function that makes one step of a side and returns the loss."""
    if side == "genret_jax":
        from genret_jax.models import T5Config
        from genret_jax.training import AdamW, Constant, TrainerConfig
        from genret_jax.training.docid_task import RetrievalTask

        config = TrainerConfig(
            steps=1000,
            batch_size=ROWS,
            optimizer=AdamW(learning_rate=Constant(rate=1e-4), weight_decay=0.01),
            clip_norm=None,
            log_every=1,
            steps_per_dispatch=1,
        )
        return genret_jax_steps(RetrievalTask(T5Config(), OneBatch(), None), config)
    small = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
    fused, batch = side == "torch_fused", tokens()
    step = torch_step(vocabulary=VOCABULARY, rate=1e-4, fused=fused, clip=None, feed_forward_proj="gated-gelu", **small)
    return lambda: step(*batch)


def main() -> None:
    """Run all sides and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="counted steps of each side")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train_step.json"))
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(lambda: step_of(arguments.serve))
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
    main()
