"""``genret claims``: test the claims of the papers on a corpus."""

import argparse
from pathlib import Path

from genret_jax.errors import InputError

HELP = "train small runs of equal budget to see which of the papers' claims hold on a corpus"

_EPILOG = """
examples:
  genret corpus python-docs --out corpora/python-docs
  genret claims --corpus corpora/python-docs --out claims
  genret claims --corpus corpora/python-docs --out claims --only GenRet

If you stop the command, run it again: it continues with the missing runs.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = _EPILOG
    parser.add_argument("--corpus", required=True, metavar="DIR", help="BEIR folder with the splits train and test")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for runs, claims.json and claims.md")
    parser.add_argument("--only", nargs="+", metavar="SYSTEM", help="papers: DSI, NCI, GenRet (default: all)")
    parser.add_argument("--steps", type=int, default=600, metavar="N", help="training steps of each run (default: 600)")
    parser.add_argument(
        "--learning",
        type=int,
        default=200,
        metavar="N",
        help="steps for each level of learned docids (default: 200)",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="seeds of a run (default: 0 1 2)"
    )
    parser.add_argument("--documents", type=int, metavar="N", help="use at most N documents (default: all)")
    parser.add_argument(
        "--binding", action="append", default=[], metavar="GIN", help="a gin binding for every run; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Train and measure the runs, and print the claims."""
    from genret_jax.claims import CLAIMS, show_claims
    from genret_jax.claims.running import Budget, table
    from genret_jax.data.corpus import read_beir
    from genret_jax.storage import atomic_file

    systems = {claim.system.lower(): claim.system for claim in CLAIMS}
    wanted = [name.lower() for name in args.only or systems]
    if unknown := [name for name in wanted if name not in systems]:
        raise InputError(
            f"no claims of {unknown[0]!r}", expected=f"one of {', '.join(systems.values())}", fix="change --only"
        )
    for name, least in (("steps", 2), ("learning", 4)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}", expected=f"at least {least}", fix=f"change --{name}")
    budget = Budget(steps=args.steps, learning=args.learning, seeds=tuple(args.seeds), documents=args.documents)
    claims = [claim for claim in CLAIMS if claim.system.lower() in wanted]
    found = show_claims(read_beir(args.corpus), Path(args.out), budget, claims=claims, bindings=args.binding)
    lines = table(found)
    with atomic_file(Path(args.out) / "claims.md") as handle:
        handle.write(lines + "\n")
    print(lines)
    return 0
