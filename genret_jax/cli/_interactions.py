"""The kinds of ``genret corpus`` that make items and histories: their options and importers."""

import argparse
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genret_jax.data.sources.importing import Imported

KINDS = ("amazon", "movielens", "recbole", "s3rec", "toy-items")
REPORT = "import.json"

_TIES = (
    "order of events of one user at one time: as in the file, by a hash of user and item (random), or auto: as in the "
    "file, unless that is sorted by item id, which gives away the item to predict (default: auto)"
)


def configure(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the kinds."""
    _configure_amazon(kinds)
    movielens = _add(
        kinds,
        "movielens",
        "MovieLens, any of its sets",
        "Write MovieLens as items and histories: every rating is an event, the text of a movie its title and genres. "
        "The files show which set it is: ml-100k, ml-1m, ml-10m, ml-20m or newer.",
        "genret corpus movielens --folder ml-1m --out corpora/ml-1m",
    )
    movielens.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the unpacked archive")
    _add_event_options(movielens)
    recbole = _add(
        kinds,
        "recbole",
        "RecBole's atomic files",
        "Write a folder of RecBole's atomic files, NAME.inter and NAME.item, as items and histories.",
        "genret corpus recbole --folder dataset/ml-100k --out corpora/ml-100k",
    )
    recbole.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="folder with NAME.inter and NAME.item"
    )
    _add_event_options(recbole)
    _configure_s3rec(kinds)
    toy = _add(
        kinds,
        "toy-items",
        "a small made-up shop, to try everything in a minute",
        "Write a made-up shop whose texts and histories carry signal, so that a model can learn.",
        "genret corpus toy-items --out corpora/toy-items",
    )
    toy.add_argument("--users", type=int, default=300, metavar="N", help="number of users (default: 300)")
    toy.add_argument("--items", type=int, default=120, metavar="N", help="number of items, 12 to 144 (default: 120)")
    toy.add_argument("--seed", type=int, default=0, help="seed of the shop (default: 0)")


def _add(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, text: str, example: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=summary, description=text, epilog=f"example:\n  {example}")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    return parser


def _add_event_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--core",
        type=int,
        default=5,
        metavar="N",
        help="least interactions of a user and of an item; others are dropped until all have enough (default: 5)",
    )
    parser.add_argument("--ties", choices=("auto", "file", "random"), default="auto", help=_TIES)


def _configure_amazon(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    amazon = _add(
        kinds,
        "amazon",
        "Amazon reviews, crawls of 2014, 2018 and 2023",
        "Write Amazon reviews (McAuley et al.) as items and histories: every review is an event, the text of an item "
        "one sentence of title, price, brand and categories, as in TIGER. Files may be packed by gzip.",
        "genret corpus amazon --reviews reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --out corpora/beauty",
    )
    amazon.add_argument("--reviews", type=Path, required=True, metavar="FILE", help="reviews, one JSON object a line")
    amazon.add_argument(
        "--metadata", type=Path, required=True, metavar="FILE", help="metadata of items, one record a line"
    )
    amazon.add_argument("--no-price", dest="price", action="store_false", help="leave the price out of the text")
    _add_event_options(amazon)


def _configure_s3rec(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    s3rec = _add(
        kinds,
        "s3rec",
        "sequences as S3-Rec and P5 publish them",
        "Write lines of 'user item item …', oldest first, as items and histories, unchanged.",
        "genret corpus s3rec --sequences Beauty.txt --titles titles.tsv --out corpora/beauty",
    )
    s3rec.add_argument("--sequences", type=Path, required=True, metavar="FILE", help="lines of 'user item item …'")
    s3rec.add_argument("--titles", type=Path, metavar="FILE", help="lines of item, tab, title")
    s3rec.add_argument("--attributes", type=Path, metavar="FILE", help='JSON object {"item": [attribute, …]}')


def run(args: argparse.Namespace) -> None:
    """Make the folder, with the report of the import as JSON beside the items, and print that report."""
    import dataclasses

    from genret_jax.data.describing import describe_interactions
    from genret_jax.data.interactions import write_interactions
    from genret_jax.storage import require_free, write_json

    require_free(args.out)
    if args.kind == "toy-items":
        from genret_jax.data.sources.toy_items import toy_items

        shop = toy_items(users=args.users, items=args.items, seed=args.seed)
        write_interactions(shop, args.out)
        print(f"{args.out}: {describe_interactions(shop, Path(args.out), samples=0)}")
        return
    interactions, report = _import(args)
    write_interactions(interactions, args.out)
    write_json(Path(args.out) / REPORT, dataclasses.asdict(report))
    print(f"{args.out}: " + "\n".join(report.lines()))


def _import(args: argparse.Namespace) -> "Imported":
    """Call the importer of this kind; the options have the names of its arguments."""
    importer = getattr(importlib.import_module(f"genret_jax.data.sources.{args.kind}"), args.kind)
    names = inspect.signature(importer).parameters
    imported: Imported = importer(**{name: value for name, value in vars(args).items() if name in names})
    return imported
