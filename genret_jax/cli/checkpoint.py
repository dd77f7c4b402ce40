"""``genret checkpoint``: show and convert public T5 checkpoints, and export trained runs to other programs."""

import argparse
from typing import TYPE_CHECKING, Any

from genret_jax.cli import checkpoint_option

if TYPE_CHECKING:
    from genret_jax.models.config import T5Config
    from genret_jax.models.convert.stored_arrays import StoredArrays

HELP = "show public T5 checkpoints, convert them (Hugging Face, t5x), or export a trained run"

_LAYOUTS = ("huggingface", "t5x")
_ORBAX = "t5x-orbax"
_EPILOG = """
Supported are T5, T5 1.1, mT5 and ByT5 in the layout of Hugging Face (config.json, model.safetensors or its shards)
or of t5x (checkpoint_STEP, written by Orbax or in t5x's own layout, or the model directory around it). A recipe starts
from such a folder with --gin.T5="'FOLDER'".

examples:
  genret checkpoint show t5-v1_1-small
  genret checkpoint import t5x/mt5_small/checkpoint_1000000 --vocabulary mt5/sentencepiece.model --out mt5-small
  genret checkpoint export --run runs/t5 --out exported --layout t5x
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="{show,import,export}")
    show = actions.add_parser(
        "show",
        help="show the layout, network, step and arrays of a checkpoint",
        description="Show the layout, network, step and array shapes of a checkpoint, without reading the arrays.",
        epilog="example:\n  genret checkpoint show t5-v1_1-small",
    )
    show.add_argument("folder", metavar="DIR", help="a checkpoint in any public layout, or a run folder")
    show.add_argument("--json", action="store_true", help="print as JSON, with one entry per array")
    _configure_import(actions)
    _configure_export(actions)


def _configure_import(actions: Any) -> None:
    parser = actions.add_parser(
        "import",
        help="check a checkpoint and convert its layout, optionally with room for docid tokens",
        description="Read a checkpoint in any public layout, check it, and write a folder that recipes start from.",
        epilog="example:\n  genret checkpoint import t5x/t5_1_1_small --vocabulary t5/sentencepiece.model "
        "--out t5-v1_1-small",
    )
    parser.add_argument("folder", metavar="DIR", help="a checkpoint in any public layout")
    _configure_output(parser)
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="SentencePiece model to copy beside the weights (default: spiece.model in DIR, if it exists)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="extend the vocabulary to N tokens with random rows at the scale of the others (default: no change)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the new rows (default: 0)")


def _configure_export(actions: Any) -> None:
    parser = actions.add_parser(
        "export",
        help="write a trained run's parameters for transformers or t5x",
        description="Write the parameters of a run whose network is a T5 (T5Config.head = 'vocabulary') for other "
        "programs. Docid tokens keep their numbers. The layout t5x-orbax, for gin_configs/t5x, holds any network.",
        epilog="example:\n  genret checkpoint export --run runs/t5 --out exported --layout huggingface",
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder of 'genret train'")
    _configure_output(parser, (*_LAYOUTS, _ORBAX))
    checkpoint_option(parser, "best, last, start (untrained), or a step")


def _configure_output(parser: argparse.ArgumentParser, layouts: tuple[str, ...] = _LAYOUTS) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to create")
    parser.add_argument("--layout", choices=layouts, default=layouts[0], help=f"its layout (default: {layouts[0]})")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return {"show": _show, "import": _import, "export": _export}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from genret_jax.errors import InputError
    from genret_jax.models.convert.public_checkpoint import find_arrays, interpret
    from genret_jax.run import open_run
    from genret_jax.run.folder import SETTINGS
    from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_step

    folder = Path(args.folder)
    if (folder / SETTINGS).is_file():
        stored = find_arrays(folder / CHECKPOINTS_FOLDER / str(checkpoint_step(folder)))
        config = open_run(folder).model
        heading = f"{folder}: a run of 'genret train', its best checkpoint; T5Config.head = {config.head!r}"
    else:
        stored = find_arrays(folder)
        try:
            config = interpret(stored).config
        except InputError:
            print(arrays_text(stored))  # so that the user can recognise the network
            raise
        heading = network_text(config)
    print(json.dumps(as_json(stored, config), indent=2) if args.json else f"{heading}\n{arrays_text(stored)}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from genret_jax.models.convert.pretrained import extend_vocabulary
    from genret_jax.models.convert.public_checkpoint import open_checkpoint, save_checkpoint
    from genret_jax.storage import require_free

    require_free(args.out)
    sentencepiece = _vocabulary_beside(args)
    checkpoint = open_checkpoint(args.folder)
    params, config = checkpoint.load(), checkpoint.config
    if args.rows is not None:
        params, config = extend_vocabulary(params, config, args.rows, seed=args.seed)
    step = checkpoint.stored.step or 0
    save_checkpoint(args.out, params, config, args.layout, step=step, sentencepiece=sentencepiece)
    print(f"{args.out}: {network_text(config)}")
    if sentencepiece is None and config.vocab_size > 384:  # ByT5 needs no vocabulary
        print("no spiece.model was written: give --vocabulary FILE, or set VocabularyConfig.path in the recipe")
    return 0


def _vocabulary_beside(args: argparse.Namespace) -> bytes | None:
    from pathlib import Path

    from genret_jax.data.text.vocabulary import from_model_file

    if args.vocabulary is not None:
        return from_model_file(args.vocabulary).model
    return from_model_file(args.folder).model if (Path(args.folder) / "spiece.model").is_file() else None


def _export(args: argparse.Namespace) -> int:
    from genret_jax.data.text.vocabulary import SentencePieceVocabulary
    from genret_jax.models.convert.public_checkpoint import save_checkpoint
    from genret_jax.models.convert.public_layout import require_public_network
    from genret_jax.run import open_run
    from genret_jax.storage import require_free
    from genret_jax.training.checkpoint_format import checkpoint_step
    from genret_jax.training.t5x.checkpoint import write_t5x_params

    require_free(args.out)
    opened = open_run(args.run)
    if args.layout != _ORBAX:
        require_public_network(opened.model)
    step = 0 if args.checkpoint == "start" else checkpoint_step(args.run, args.checkpoint)
    params = opened.params("start" if args.checkpoint == "start" else step)
    if args.layout == _ORBAX:
        path = write_t5x_params(args.out, params, step=step)
        print(f"{path}: for --gin.INITIAL_CHECKPOINT_PATH=\"'{path}'\"")
        return 0
    vocabulary = getattr(opened, "vocabulary", None)  # items have none
    # Without the normalisation of words, the SentencePiece model alone would produce other tokens.
    is_whole = isinstance(vocabulary, SentencePieceVocabulary) and vocabulary.normalization == "none"
    save_checkpoint(
        args.out,
        params,
        opened.model,
        args.layout,
        step=step,
        sentencepiece=vocabulary.model if vocabulary is not None and is_whole else None,
    )
    print(f"{args.out}: step {step:,}, {network_text(opened.model)}")
    if vocabulary is not None:
        print(
            f"text is tokens 0 to {vocabulary.size - 1:,}; docid tokens follow, as described by the codec in run.json"
        )
    return 0


def network_text(config: "T5Config") -> str:
    """Describe a network in one line."""
    from math import prod

    from genret_jax.models.convert.public_layout import tensor_shapes

    count = sum(prod(shape) for shape in tensor_shapes(config).values())
    output = "tied to the embedding" if config.tie_embeddings else "separate"
    return (
        f"T5 of {count:,} parameters: vocabulary {config.vocab_size:,}, width {config.d_model:,}, "
        f"{config.num_encoder_layers} encoder and {config.num_decoder_layers} decoder layers, "
        f"{config.num_heads} heads of {config.d_kv}, feed-forward {config.d_ff:,} ({' × '.join(config.activations)}), "
        f"output layer {output}"
    )


def arrays_text(stored: "StoredArrays") -> str:
    """Describe the layout, size and arrays of a checkpoint; equal arrays of several layers share a line."""
    from genret_jax.models.shapes import across_layers

    lines = [f"{stored.path}: {stored.layout}, {len(stored.arrays)} arrays of {_size(stored)}"]
    if stored.step is not None:
        lines[0] += f", step {stored.step:,}"
    if stored.others:
        lines[0] += f", {stored.others} other arrays"
    entries = [(name, f"{array.dtype}{list(array.shape)}") for name, array in stored.arrays.items()]
    groups = across_layers(entries)
    width = max((len(name) for name, _, _ in groups), default=0)
    return "\n".join(lines + [f"  {name:<{width}}  {text}" for name, text, _ in groups])


def _size(stored: "StoredArrays") -> str:
    size = stored.num_bytes
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.2f} MiB"


def as_json(stored: "StoredArrays", config: "T5Config") -> dict[str, Any]:
    """Return the description of a checkpoint as JSON values."""
    from dataclasses import asdict

    return {
        "path": str(stored.path),
        "layout": stored.layout,
        "step": stored.step,
        "network": asdict(config),
        "bytes": stored.num_bytes,
        "arrays": {name: {"dtype": a.dtype, "shape": list(a.shape)} for name, a in stored.arrays.items()},
        "other_arrays": stored.others,
    }
