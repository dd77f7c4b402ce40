"""Make tests/golden/encoders/: what sentence-transformers computes with tiny encoders, for tests without torch.

    python scripts/make_encoder_golden.py

Needs torch, transformers and sentence-transformers (made with 2.13, 5.24 and 6.2). Writes, for BERT, MPNet and the
encoder of T5, a folder as sentence-transformers saves it, with random weights that leave nothing at its neutral value,
and in it the tokens, states and vectors of the texts in texts.json. Texts have different lengths, are cut, are empty,
or have letters that the vocabulary does not have.
"""

import json
import shutil
import string
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "encoders"
WORDS = ["a", "the", "fox", "dog", "jump", "lazy", "quick", "over", "query", "passage", "brown"]
PUNCTUATION = list(".,:?")
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "a fox",
    "",
    "Déjà vu, ÜBER dog: foxes jumped?",
    "狐 and \U0001f98a are not of the vocabulary",
    " ".join(["the lazy dog", "a fox jumps,", "over the passage."] * 20),
    "dog " * 23,
]
POOLINGS = ("mean", "cls", "max")
# What a folder needs besides the folders of its modules; sentence-transformers writes a README.md too.
NEEDED = {
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@dataclass(frozen=True)
class Case:
    """A folder: its network, its longest input, and its modules after pooling."""

    config: transformers.PretrainedConfig
    max_length: int
    prompts: dict[str, str] = field(default_factory=dict)
    dense: dict[str, Any] | None = None


def shape(width: int, heads: int, hidden: int, layers: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a BERT's or an MPNet's configuration."""
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        **fields,
    }


CASES = {
    "bert": Case(
        config=transformers.BertConfig(**shape(16, 2, 24, 2, max_position_embeddings=40)),
        max_length=24,
        prompts={"query": "query: ", "document": "passage: "},
    ),
    # Pooling, a map with bias, and tanh, as in LaBSE (Feng et al. 2022, arXiv 2007.01852).
    "bert_dense": Case(
        config=transformers.BertConfig(
            **shape(12, 3, 20, 1, max_position_embeddings=33, hidden_act="gelu_new", layer_norm_eps=1e-3)
        ),
        max_length=33,
        dense={"out_features": 9, "bias": True, "activation_function": torch.nn.Tanh()},
    ),
    # Longer than 128 tokens, from which distance on MPNet's relative positions share a bucket.
    "mpnet": Case(
        config=transformers.MPNetConfig(**shape(12, 3, 20, 2, max_position_embeddings=202, layer_norm_eps=1e-3)),
        max_length=165,
        prompts={"query": "query: ", "passage": "passage: "},
    ),
    # As in Sentence-T5 (Ni et al. 2022, arXiv 2108.08877) and GTR (Ni et al. 2022, arXiv 2112.07899).
    "t5": Case(
        config=transformers.T5Config(d_model=12, d_kv=5, num_heads=2, d_ff=20, num_layers=2, feed_forward_proj="relu"),
        max_length=150,
        dense={"out_features": 8, "bias": False, "activation_function": torch.nn.Identity()},
    ),
}


def make_tokenizer(kind: str, max_length: int) -> transformers.PreTrainedTokenizerBase:
    """Make the family's own tokenizer over a tiny vocabulary."""
    letters, endings = list(string.ascii_lowercase), ["s", "ed", "es"]
    if kind == "t5":
        pieces = [("▁", -3.0), *((f"▁{word}", -4.0) for word in WORDS), *((end, -5.0) for end in endings[1:])]
        pieces += [(letter, -7.0) for letter in [*letters, *PUNCTUATION]]
        special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
        return transformers.T5Tokenizer(vocab=special + pieces, extra_ids=0, model_max_length=max_length)
    words = [*PUNCTUATION, *letters, *WORDS[1:], *(f"##{end}" for end in [*letters, *endings[1:]])]
    special = ["<s>", "<pad>", "</s>", "[UNK]"] if kind == "mpnet" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    special += ["<mask>" if kind == "mpnet" else "[MASK]"]
    made = transformers.MPNetTokenizer if kind == "mpnet" else transformers.BertTokenizer
    return made(vocab={word: row for row, word in enumerate(special + words)}, model_max_length=max_length)


@torch.no_grad()
def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every weight a size at which it matters: peaked attention, uneven norms, strong position biases."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name.lower() and name.endswith("weight"):
            weight.copy_(1 + 0.4 * noise)
        elif name.endswith("bias"):
            weight.copy_(0.5 * noise)
        elif "embed" in name or "shared" in name or "relative_attention_bias" in name:
            weight.copy_(noise)
        else:
            weight.copy_(1.5 * noise * weight.shape[1] ** -0.5)


def make_transformer(case: Case, generator: torch.Generator) -> Transformer:
    """Make the network with its tokenizer, which the module reads from a folder."""
    tokenizer = make_tokenizer(case.config.model_type, case.max_length)
    case.config.vocab_size = len(tokenizer)
    case.config.pad_token_id = tokenizer.pad_token_id
    classes = {"bert": transformers.BertModel, "mpnet": transformers.MPNetModel, "t5": transformers.T5EncoderModel}
    model = classes[case.config.model_type](case.config).eval()
    randomise(model, generator)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        return Transformer(folder)


def expected(case: Case, transformer: Transformer, dense: list[Dense], folder: Path) -> dict[str, np.ndarray]:
    """Return tokens, states and vectors of the texts: of every pooling, and of the folder with its prompts."""
    read = SentenceTransformer(str(folder), device="cpu")
    tokens = read.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = transformer.model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    kept = tokens["attention_mask"].bool()
    found = {
        "lengths": kept.sum(1).int().numpy(),
        "tokens": tokens["input_ids"][kept].int().numpy(),  # of all texts, one after the other
        "states": states[kept].numpy(),
        "queries": read.encode_query(TEXTS),
        "documents": read.encode(TEXTS, prompt_name="passage" if "passage" in case.prompts else "document"),
    }
    for pooling in POOLINGS:
        modules = [transformer, Pooling(states.shape[-1], pooling), *dense]
        found[pooling] = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
        found[f"{pooling}_normalized"] = SentenceTransformer(modules=[*modules, Normalize()], device="cpu").encode(
            TEXTS
        )
    return found


def write_case(name: str, case: Case, seed: int) -> None:
    """Write one folder, and expected.safetensors in it."""
    generator = torch.Generator().manual_seed(seed)
    transformer = make_transformer(case, generator)
    width, dense = transformer.get_embedding_dimension(), []
    if case.dense:
        dense = [Dense(width, **case.dense)]
        randomise(dense[0], generator)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    modules = [transformer, Pooling(width, "mean"), *dense, Normalize()]
    SentenceTransformer(modules=modules, prompts=case.prompts, device="cpu").save_pretrained(str(folder))
    for file in folder.iterdir():
        if file.is_file() and file.name not in NEEDED:
            file.unlink()
    arrays = expected(case, transformer, dense, folder)
    save_file(arrays, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(
        f"{name}: {size / 1000:.0f} kB, lengths {arrays['lengths']}, deviation of states {arrays['states'].std():.2f}"
    )


def main() -> None:
    """Write everything."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / "texts.json").write_text(json.dumps(TEXTS, indent=2) + "\n")
    for seed, (name, case) in enumerate(CASES.items()):
        write_case(name, case, seed)


if __name__ == "__main__":
    sys.exit(main())
