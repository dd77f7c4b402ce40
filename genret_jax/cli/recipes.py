"""``genret recipes``: the shipped recipes, and the gin text of one or of a run."""

import argparse

from genret_jax.errors import InputError

HELP = "list the shipped recipes, or print the whole configuration of one"

_EPILOG = """
examples:
  genret recipes
  genret recipes tiger                    its configuration, defaults included
  genret recipes tiger > mine.gin         to change, and to run by: genret train --gin-file mine.gin
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this recipe's configuration")


def run(args: argparse.Namespace) -> int:
    """List or print."""
    from genret_jax.config.gin_files import experiment_from_gin, recipe_file, recipes

    if args.name is None:
        known = recipes()
        width = max(map(len, known))
        for name, (file, line) in known.items():
            print(f"{name:<{width}}  {line}\n{'':<{width}}  --gin-file {file}")
        return 0
    from genret_jax.config.record import record_text

    bindings = ["CORPUS = 'CORPUS'", "RUN = 'RUN'"]
    file = recipe_file(args.name)
    try:
        folder, experiment = experiment_from_gin([file], bindings)
    except InputError as error:
        if "VALUE" not in str(error.fix):
            raise
        # A recipe that starts from public weights asks for their folder.
        folder, experiment = experiment_from_gin([file], [*bindings, "T5 = 'T5'"])
    print(record_text(folder, experiment), end="")
    return 0
