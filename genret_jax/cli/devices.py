"""The option that spreads a search over several devices."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.sharding import Mesh


def model_parallel_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--model_parallel``."""
    parser.add_argument(
        "--model_parallel",
        type=int,
        metavar="N",
        help="search on all devices, N of which share one copy of the network, while queries are divided among the "
        "copies (default: on one device)",
    )


def mesh_of(args: argparse.Namespace) -> "Mesh | None":
    """Return the mesh to search on, None for one device.

    Raises:
        InputError: If N does not divide the devices.
    """
    if args.model_parallel is None:
        return None
    from genret_jax.training import make_mesh

    return make_mesh(model_parallel=args.model_parallel)
