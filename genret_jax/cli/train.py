"""``genret train``: from a corpus and a gin file to a trained run folder."""

import argparse

from genret_jax.errors import InputError

HELP = "prepare a run folder and train in it, or go on where it was stopped"

_DEFAULT = "runs/dsi_semantic_from_scratch.gin"
_EPILOG = """
example:
  genret corpus python-docs --out corpus
  genret train --corpus corpus --run runs/first
  genret train --gin_file runs/dsi_atomic_from_scratch.gin --corpus corpus --run runs/second --gin.STEPS=2000

Gin files are looked up here and among the shipped ones. --gin.NAME=VALUE sets a macro or a parameter, as in t5x; text
needs quotes of its own: --gin.Experiment.codec="'text'". A run that was stopped goes on from its last checkpoint.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--gin_file", action="append", metavar="FILE", help=f"gin file, may be repeated (default: {_DEFAULT})"
    )
    parser.add_argument("--corpus", metavar="DIR", help="BEIR folder; the same as --gin.CORPUS=\"'DIR'\"")
    parser.add_argument("--run", metavar="DIR", help="run folder; the same as --gin.RUN=\"'DIR'\"")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps; the same as --gin.STEPS=N")
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a gin macro or parameter; also --gin.NAME=VALUE",
    )


def run(args: argparse.Namespace) -> int:
    """Parse the configuration and train."""
    from genret_jax.configuration import experiment_from_gin
    from genret_jax.train import train

    bindings = [binding(text) for text in args.gin]
    bindings += [
        f"{name} = {value!r}"
        for name, value in (("CORPUS", args.corpus), ("RUN", args.run), ("STEPS", args.steps))
        if value is not None
    ]
    folder, experiment = experiment_from_gin(args.gin_file or [_DEFAULT], bindings)
    train(run=folder, experiment=experiment)
    return 0


def binding(text: str) -> str:
    """Return ``NAME=VALUE`` of the command line as gin writes it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--gin.{text}", expected="--gin.NAME=VALUE", fix="add a value")
    return f"{name} = {value}"
