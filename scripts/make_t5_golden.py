"""Make tests/golden/: what the reference implementation of T5 in transformers computes, for tests without torch.

    python scripts/make_t5_golden.py

Needs torch and transformers (made with torch 2.13, transformers 5.23). Writes, for T5 1.1 (untied, gated gelu) and
T5 1.0 (tied, scaled, relu), a tiny model with random weights that leave nothing at its neutral value, inputs longer
than the largest relative distance and padded, the logits of one pass, and the logits of cached decoding; the position
buckets; and the parameter counts of all public sizes. The weights are in the layout of public checkpoints, so that the
tests read them as a user's file is read.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.t5.modeling_t5 import T5Attention

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
TINY = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "decoder_start_token_id": 0,
}
# As in the config.json of google-t5/t5-*, google/t5-v1_1-*, google/mt5-* and google/byt5-*; tiny is
# google/t5-efficient-tiny (arXiv 2109.10686).
SIZES = {
    "t5_1_0_tiny": (256, 64, 1024, 4, 4),
    "t5_1_0_small": (512, 64, 2048, 6, 8),
    "t5_1_0_base": (768, 64, 3072, 12, 12),
    "t5_1_0_large": (1024, 64, 4096, 24, 16),
    "t5_1_0_3b": (1024, 128, 16384, 24, 32),
    "t5_1_0_11b": (1024, 128, 65536, 24, 128),
    "t5_1_1_tiny": (256, 64, 512, 4, 4),
    "t5_1_1_small": (512, 64, 1024, 8, 6),
    "t5_1_1_base": (768, 64, 2048, 12, 12),
    "t5_1_1_large": (1024, 64, 2816, 24, 16),
    "t5_1_1_xl": (2048, 64, 5120, 24, 32),
    "t5_1_1_xxl": (4096, 64, 10240, 24, 64),
    "mt5_small": (512, 64, 1024, 8, 6),
    "mt5_base": (768, 64, 2048, 12, 12),
    "mt5_large": (1024, 64, 2816, 24, 16),
    "mt5_xl": (2048, 64, 5120, 24, 32),
    "mt5_xxl": (4096, 64, 10240, 24, 64),
    # ByT5's encoder is three times as deep as its decoder (Xue et al. 2022, arXiv 2105.13626, section 3.1).
    "byt5_small": (1472, 64, 3584, (12, 4), 6),
    "byt5_base": (1536, 64, 3968, (18, 6), 12),
    "byt5_large": (1536, 64, 3840, (36, 12), 16),
    "byt5_xl": (2560, 64, 6720, (36, 12), 32),
    "byt5_xxl": (4672, 64, 12352, (36, 12), 64),
}
VOCABULARIES = {"t5": 32128, "mt5": 250112, "byt5": 384}


def make_model(config: transformers.T5Config, *, untied: bool) -> transformers.T5ForConditionalGeneration:
    """Build the reference; transformers 5 ties the output layer whatever the configuration says."""
    model = transformers.T5ForConditionalGeneration(config)
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
        model.config.tie_word_embeddings = False
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every weight a size at which it matters: peaked attention, uneven norms, strong position biases."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "layer_norm" in name:
            weight.copy_(1 + 0.4 * noise)
        elif "relative_attention_bias" in name:
            weight.copy_(1.5 * noise)
        elif weight is model.shared.weight:
            weight.copy_(noise)
        else:
            weight.copy_(noise * weight.shape[1] ** -0.5)


@torch.no_grad()
def expected(model: transformers.T5ForConditionalGeneration, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Run the reference on padded inputs, at once and step by step with its cache."""
    source = torch.randint(2, TINY["vocab_size"], (3, 150), generator=generator)
    source[1, 97:] = 0
    source[2, 5:] = 0
    target = torch.randint(2, TINY["vocab_size"], (3, 136), generator=generator)
    target[:, 0] = 0
    mask = (source > 0).long()
    encoded = model.encoder(input_ids=source, attention_mask=mask)
    logits = model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=target).logits
    cache, steps = None, []
    for position in range(target.shape[1]):
        out = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=target[:, position : position + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        steps.append(out.logits[:, 0])
    return {
        "source": source.int().numpy(),
        "target": target.int().numpy(),
        "encoded": encoded.last_hidden_state.numpy(),
        "logits": logits.numpy(),
        "cached_logits": torch.stack(steps, dim=1).numpy(),
    }


def write_model(name: str, *, untied: bool, projection: str, seed: int) -> None:
    """Write one model's folder: config.json, model.safetensors, expected.safetensors."""
    generator = torch.Generator().manual_seed(seed)
    config = transformers.T5Config(**TINY, feed_forward_proj=projection, tie_word_embeddings=not untied)
    model = make_model(config, untied=untied)
    randomise(model, generator)
    arrays = expected(model, generator)
    spread = arrays["logits"].std()
    if not (math.isfinite(spread) and spread > 0.1):
        raise SystemExit(f"trivial logits: their standard deviation is {spread}")
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = {n: w.detach().numpy().copy() for n, w in model.named_parameters()}
    described = {**TINY, "model_type": "t5", "feed_forward_proj": projection, "tie_word_embeddings": not untied}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(arrays, folder / "expected.safetensors")
    difference = abs(arrays["cached_logits"] - arrays["logits"]).max()
    print(f"{name}: logits' standard deviation {spread:.2f}, cached against whole at most {difference:.1e}")


def reference_facts() -> dict[str, object]:
    """Count the parameters of every size without allocating them, and tabulate the position buckets."""
    counts = {}
    for name, (d_model, d_kv, d_ff, layers, heads) in SIZES.items():
        untied = not name.startswith("t5_1_0")
        encoder_layers, decoder_layers = layers if isinstance(layers, tuple) else (layers, layers)
        config = transformers.T5Config(
            vocab_size=VOCABULARIES[name.split("_")[0]],
            d_model=d_model,
            d_kv=d_kv,
            d_ff=d_ff,
            num_layers=encoder_layers,
            num_decoder_layers=decoder_layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu" if untied else "relu",
        )
        with torch.device("meta"):
            model = make_model(config, untied=untied)
        counts[name] = sum(weight.numel() for weight in model.parameters())
    offsets = torch.arange(-300, 301)
    buckets = {
        kind: T5Attention._relative_position_bucket(offsets, bidirectional=kind == "bidirectional").tolist()
        for kind in ("bidirectional", "causal")
    }
    return {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": counts,
        "buckets_of_offsets_from_-300_to_300": buckets,
    }


def main() -> None:
    """Write everything."""
    write_model("t5_1_1", untied=True, projection="gated-gelu", seed=11)
    write_model("t5_1_0", untied=False, projection="relu", seed=10)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in reference_facts().items()]
    (GOLDEN / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
