"""``genret corpus``: make a folder with a corpus or with items and histories, or show one."""

import argparse
import dataclasses
import importlib
from pathlib import Path
from typing import Any

HELP = "make a corpus, or items with users' histories, from public data; check and show a folder"
REPORT = "import.json"  # beside the items: how an import changed them

_EPILOG = """
A corpus is a BEIR folder: corpus.jsonl ("_id", "title", "text"), and optionally queries.jsonl ("_id", "text"),
qrels/SPLIT.tsv (query-id, corpus-id, score) and queries_generated.jsonl ("_id" of a document, "queries").

Items and histories are a folder too: items.jsonl ("_id", "title", "text"), sequences.txt ("user item item …", oldest
first), and optionally embeddings.npy with vectors of the items.

examples:
  genret corpus python-docs --out corpora/python-docs
  genret corpus nq --size 10k --out corpora/nq10k
  genret corpus toy-items --out corpora/toy-items
  genret corpus amazon --reviews reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --out corpora/beauty
  genret corpus show my-corpus
"""
_TIES = (
    "order of events of one user at one time: as in the file, by a hash of user and item (random), or auto: as in the "
    "file, unless that is sorted by item id, which gives away the item to predict (default: auto)"
)


def _file(text: str, **options: Any) -> dict[str, Any]:
    return {"type": Path, "metavar": "FILE", "help": text, **options}


def _number(text: str, default: int, **options: Any) -> dict[str, Any]:
    return {"type": int, "default": default, "help": f"{text} (default: {default})", **options}


_FOLDER = {"type": Path, "required": True, "metavar": "DIR"}
_EVENTS: dict[str, dict[str, Any]] = {
    "--core": _number(
        "least interactions of a user and of an item; others are dropped until all have enough", 5, metavar="N"
    ),
    "--ties": {"choices": ("auto", "file", "random"), "default": "auto", "help": _TIES},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of data that can be made, by the function of the same name in ``genret_jax.data.sources``.

    Attributes:
        help: One line about it.
        description: Text above the options.
        example: A command that makes it.
        options: Options beside ``--out``; each sets the argument of the same name.
        function: Name of the function and of its module; by default the kind's, with underscores.
    """

    help: str
    description: str
    example: str
    options: dict[str, dict[str, Any]]
    function: str | None = None


_KINDS = {
    "python-docs": _Kind(
        help="the documentation of the running Python",
        description="Write the documentation of this Python's standard library. Bodies of docstrings are the "
        "documents; their summaries are the queries, a fifth of them in split 'test'.",
        example="--out corpora/python-docs",
        options={
            "--validation": {
                "type": float,
                "default": 0.0,
                "metavar": "SHARE",
                "help": "share of the training queries to hold out as split 'validation' (default: 0)",
            },
            "--whole": {
                "action": "store_true",
                "help": "whole docstrings for people to search, also those of modules in C, and no queries",
            },
        },
    ),
    "nq": _Kind(
        function="natural_questions",
        help="Natural Questions in DSI's protocol, from TensorFlow Datasets",
        description="Write Natural Questions as DSI uses it (arXiv 2202.06991): NQ10K, NQ100K or NQ320K.",
        example="--size 10k --out corpora/nq10k",
        options={
            "--size": {"choices": ("10k", "100k", "320k"), "default": "10k", "help": "DSI's set (default: 10k)"},
            "--identity": {
                "choices": ("title", "text"),
                "default": "title",
                "help": "pages are one document if they have the same title, as in NCI and GenRet, or the same first "
                "4,000 characters (text), as in DSI (default: title)",
            },
            "--seed": _number("seed of the samples 10k and 100k", 0),
            "--data-dir": {"metavar": "DIR", "help": "folder of TensorFlow Datasets (default: its own)"},
            "--download": {"action": "store_true", "help": "download and prepare the set first (some 42 GB)"},
        },
    ),
    "amazon": _Kind(
        help="Amazon reviews, crawls of 2014, 2018 and 2023",
        description="Write Amazon reviews (McAuley et al.) as items and histories: every review is an event, the text "
        "of an item one sentence of title, price, brand and categories, as in TIGER. Files may be packed by gzip.",
        example="--reviews reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --out corpora/beauty",
        options={
            "--reviews": _file("reviews, one JSON object a line", required=True),
            "--metadata": _file("metadata of items, one record a line", required=True),
            "--no-price": {"dest": "price", "action": "store_false", "help": "leave the price out of the text"},
            **_EVENTS,
        },
    ),
    "movielens": _Kind(
        help="MovieLens, any of its sets",
        description="Write MovieLens as items and histories: every rating is an event, the text of a movie its title "
        "and genres. The files show which set it is: ml-100k, ml-1m, ml-10m, ml-20m or newer.",
        example="--folder ml-1m --out corpora/ml-1m",
        options={"--folder": {**_FOLDER, "help": "the unpacked archive"}, **_EVENTS},
    ),
    "recbole": _Kind(
        help="RecBole's atomic files",
        description="Write a folder of RecBole's atomic files, NAME.inter and NAME.item, as items and histories.",
        example="--folder dataset/ml-100k --out corpora/ml-100k",
        options={"--folder": {**_FOLDER, "help": "folder with NAME.inter and NAME.item"}, **_EVENTS},
    ),
    "s3rec": _Kind(
        help="sequences as S3-Rec and P5 publish them",
        description="Write lines of 'user item item …', oldest first, as items and histories, unchanged.",
        example="--sequences Beauty.txt --titles titles.tsv --out corpora/beauty",
        options={
            "--sequences": _file("lines of 'user item item …'", required=True),
            "--titles": _file("lines of item, tab, title"),
            "--attributes": _file('JSON object {"item": [attribute, …]}'),
        },
    ),
    "toy-items": _Kind(
        help="a small made-up shop, to try everything in a minute",
        description="Write a made-up shop whose texts and histories carry signal, so that a model can learn.",
        example="--out corpora/toy-items",
        options={
            "--users": _number("number of users", 300, metavar="N"),
            "--items": _number("number of items, 12 to 144", 120, metavar="N"),
            "--seed": _number("seed of the shop", 0),
        },
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in _KINDS.items():
        epilog = f"example:\n  genret corpus {name} {kind.example}"
        making = kinds.add_parser(name, help=kind.help, description=kind.description, epilog=epilog)
        making.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
        for option, settings in kind.options.items():
            making.add_argument(option, **settings)
    show = kinds.add_parser(
        "show",
        help="check a folder and show its contents",
        description="Read and check a corpus, or items and histories. Show counts, and a few queries with their "
        "documents or histories with their items.",
        epilog="example:\n  genret corpus show my-corpus --samples 5",
    )
    show.add_argument("folder", metavar="DIR", help="a BEIR folder, or one of items and histories")
    show.add_argument("--samples", metavar="N", **_number("queries or users to print", 3))


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from genret_jax.data.text.words import printable

    print(printable(_show(Path(args.folder), max(0, args.samples)) if args.kind == "show" else _make(args)))
    return 0


def _show(folder: Path, samples: int) -> str:
    from genret_jax.data.corpus import read_beir
    from genret_jax.data.describing import describe_corpus, describe_interactions
    from genret_jax.data.interactions import is_interactions, read_interactions

    if is_interactions(folder):
        return describe_interactions(read_interactions(folder), folder, samples=samples)
    return describe_corpus(read_beir(folder), samples=samples)


def _make(args: argparse.Namespace) -> str:
    """Make the folder, with the report of an import as JSON beside the items; return a description."""
    from genret_jax.data.corpus import Corpus, write_beir
    from genret_jax.data.describing import describe_corpus, describe_interactions
    from genret_jax.data.interactions import Interactions, write_interactions
    from genret_jax.storage import require_free, write_json

    require_free(args.out)
    kind = _KINDS[args.kind]
    function = kind.function or args.kind.replace("-", "_")
    make = getattr(importlib.import_module(f"genret_jax.data.sources.{function}"), function)
    names = [settings.get("dest", option[2:].replace("-", "_")) for option, settings in kind.options.items()]
    made = make(**{name: getattr(args, name) for name in names})
    if isinstance(made, Corpus):
        write_beir(made, args.out)
        return f"{args.out}: {describe_corpus(made, samples=0)}"
    if isinstance(made, Interactions):
        write_interactions(made, args.out)
        return f"{args.out}: {describe_interactions(made, Path(args.out), samples=0)}"
    write_interactions(made.interactions, args.out)
    write_json(Path(args.out) / REPORT, dataclasses.asdict(made.report))
    return f"{args.out}: " + "\n".join(made.report.lines())
