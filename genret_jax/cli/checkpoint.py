"""``genret checkpoint``: show and convert public T5 checkpoints, and export trained runs to other programs."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genret_jax.cli import checkpoint_option

if TYPE_CHECKING:
    from genret_jax.models.config import T5Config
    from genret_jax.models.convert.stored_arrays import StoredArrays
    from genret_jax.problems import Problem
    from genret_jax.training.step import Params

HELP = "show public T5 checkpoints, convert them (Hugging Face, t5x), or export a trained run"

_LAYOUTS = ("huggingface", "t5x")
_ORBAX, _SENTENCE, _NAMED = "t5x-orbax", "sentence-transformers", "safetensors"
_EPILOG = """
Supported are T5, T5 1.1, mT5 and ByT5 in the layout of Hugging Face (config.json, model.safetensors or its shards)
or of t5x (checkpoint_STEP, written by Orbax or in t5x's own layout, or the model directory around it). A recipe starts
from such a folder with --gin.T5="'FOLDER'".

examples:
  genret checkpoint show t5-v1_1-small
  genret checkpoint import t5x/mt5_small/checkpoint_1000000 --vocabulary mt5/sentencepiece.model --out mt5-small
  genret checkpoint export --run runs/t5 --out exported --layout t5x
  genret checkpoint export --run runs/mine --out my-encoder --layout sentence-transformers
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
        help="write a trained run's parameters for transformers, t5x, sentence-transformers or your own code",
        description="Write the parameters of a run for other programs. huggingface and t5x hold a T5 (T5Config.head = "
        "'vocabulary'), whose docid tokens keep their numbers. sentence-transformers holds the encoder of a run that "
        "began with one. safetensors (all parameters by their names, with network.json) and t5x-orbax (for "
        "gin_configs/t5x) hold any network.",
        epilog="examples:\n  genret checkpoint export --run runs/t5 --out exported --layout huggingface\n"
        "  genret checkpoint export --run runs/mine --out my-encoder --layout sentence-transformers",
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder of 'genret train'")
    _configure_output(parser, (*_LAYOUTS, _ORBAX, _SENTENCE, _NAMED))
    checkpoint_option(parser, "best, last, start (untrained), or a step")


def _configure_output(parser: argparse.ArgumentParser, layouts: tuple[str, ...] = _LAYOUTS) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to create")
    parser.add_argument("--layout", choices=layouts, default=layouts[0], help=f"its layout (default: {layouts[0]})")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return {"show": _show, "import": _import, "export": _export}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict, replace
    from pathlib import Path

    from genret_jax.errors import InputError
    from genret_jax.models.convert.named_arrays import DESCRIPTION
    from genret_jax.models.convert.public_checkpoint import find_arrays, interpret
    from genret_jax.run import open_run
    from genret_jax.run.folder import SETTINGS
    from genret_jax.storage import read_json
    from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_step

    folder = Path(args.folder)
    if (folder / SETTINGS).is_file():
        stored = find_arrays(folder / CHECKPOINTS_FOLDER / str(checkpoint_step(folder)))
        network = asdict(open_run(folder).model)
        heading = f"{folder}: a run of 'genret train', its best checkpoint; T5Config.head = {network['head']!r}"
    elif (folder / DESCRIPTION).is_file():
        described = read_json(folder / DESCRIPTION, expect=dict)
        stored, network = replace(find_arrays(folder), step=described["step"]), described["network"]
        heading = f"{folder}: exported from a run of 'genret train'; T5Config.head = {network['head']!r}"
    else:
        stored = find_arrays(folder)
        try:
            config = interpret(stored).config
        except InputError:
            print(arrays_text(stored))  # so that the user can recognise the network
            raise
        network, heading = asdict(config), network_text(config)
    print(json.dumps(as_json(stored, network), indent=2) if args.json else f"{heading}\n{arrays_text(stored)}")
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
    from genret_jax.models.convert.public_layout import require_public_network
    from genret_jax.run import open_run
    from genret_jax.storage import require_free
    from genret_jax.training.checkpoint_format import checkpoint_step

    require_free(args.out)
    opened = open_run(args.run)
    if args.layout in _LAYOUTS:
        require_public_network(opened.model)
    if args.layout == _SENTENCE:
        _require_encoder(opened)
    step = 0 if args.checkpoint == "start" else checkpoint_step(args.run, args.checkpoint)
    params = opened.params("start" if args.checkpoint == "start" else step)
    export = {_ORBAX: _export_for_t5x, _SENTENCE: _export_encoder, _NAMED: _export_by_names}
    export.get(args.layout, _export_t5)(args, opened, params, step)
    return 0


def _export_t5(args: argparse.Namespace, opened: "Problem", params: "Params", step: int) -> None:
    """Write a T5 for transformers or t5x."""
    from genret_jax.data.text.vocabulary import SentencePieceVocabulary
    from genret_jax.models.convert.public_checkpoint import save_checkpoint

    vocabulary = getattr(opened, "vocabulary", None)  # items have none
    # Without the normalisation of words, the SentencePiece model alone would produce other tokens.
    is_whole = isinstance(vocabulary, SentencePieceVocabulary) and vocabulary.normalization == "none"
    model = vocabulary.model if vocabulary is not None and is_whole else None
    save_checkpoint(args.out, params, opened.model, args.layout, step=step, sentencepiece=model)
    print(f"{args.out}: step {step:,}, {network_text(opened.model)}")
    if vocabulary is not None:
        print(
            f"text is tokens 0 to {vocabulary.size - 1:,}; docid tokens follow, as described by the codec in run.json"
        )


def _export_for_t5x(args: argparse.Namespace, opened: "Problem", params: "Params", step: int) -> None:
    """Write any network for gin_configs/t5x."""
    from genret_jax.training.t5x.checkpoint import write_t5x_params

    path = write_t5x_params(args.out, params, step=step)
    print(f"{path}: for --gin.INITIAL_CHECKPOINT_PATH=\"'{path}'\"")


def _export_encoder(args: argparse.Namespace, opened: "Problem", params: "Params", step: int) -> None:
    """Write the encoder of a run that began with one."""
    from genret_jax.models.convert.sentence_folder import write_sentence_folder
    from genret_jax.problems.encoder_parts import ENCODER

    write_sentence_folder(args.out, params["encoder"], opened.folder / ENCODER, step=step)
    print(f"{args.out}: the encoder at step {step:,}, for SentenceTransformer('{args.out}') or Experiment.encoder")
    if opened.model.query_width:
        print(
            f"the query layer (T5Config.query_width = {opened.model.query_width:,}) is not in it: the run passes the "
            "vectors of queries through it, and no module of sentence-transformers expresses it"
        )


def _require_encoder(opened: "Problem") -> None:
    from genret_jax.errors import InputError

    if opened.model.encoder is None:
        raise InputError(
            "the run does not begin with a pretrained sentence encoder",
            file=opened.folder,
            expected="a run with Experiment.encoder",
            fix="export it with --layout safetensors",
        )


def _export_by_names(args: argparse.Namespace, opened: "Problem", params: "Params", step: int) -> None:
    """Write the parameters of any network by their names."""
    from genret_jax.models.convert.named_arrays import DESCRIPTION, WEIGHTS, save_named_arrays
    from genret_jax.models.shapes import named_shapes

    described = {"step": step, **{name: opened.settings[name] for name in ("corpus", "codec", "fingerprints")}}
    save_named_arrays(args.out, params, opened.model, described)
    print(f"{args.out}: step {step:,}, {len(named_shapes(params))} arrays in {WEIGHTS}, the network in {DESCRIPTION}")


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


def as_json(stored: "StoredArrays", network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a checkpoint as JSON values; ``network`` has the fields of its configuration."""
    return {
        "path": str(stored.path),
        "layout": stored.layout,
        "step": stored.step,
        "network": dict(network),
        "bytes": stored.num_bytes,
        "arrays": {name: {"dtype": a.dtype, "shape": list(a.shape)} for name, a in stored.arrays.items()},
        "other_arrays": stored.others,
    }
