"""``genret plan``: compile a run's steps for hardware you don't have, to see what it needs there."""

import argparse
import re
import sys

from genret_jax.cli import experiment_options, gin_files_and_bindings
from genret_jax.errors import InputError

HELP = "show the memory, communication and least time of training and search on hardware you don't have"

_EPILOG = """
examples:
  genret plan --device tpu-v5e --devices 256 --mesh 64x4 --documents 320000 \\
      --recipe t5 --gin-file models/t5_1_1_xxl.gin
  genret plan --device h100 --devices 8 --documents 8800000 --recipe atomic --json plan.json
  genret plan --device h100 --devices 1 --documents 1000000 --terms 40 --recipe pretrained

No corpus is read and nothing is trained: --documents gives the number of documents, the gin files everything else.
For TPUs the program is compiled by the TPU's own compiler (pip install libtpu; no TPU is needed). For other devices it
is compiled for that many CPU devices, so memory and operations are estimates. Times assume the vendors' peak figures,
which no program reaches.
Devices: tpu-v4 (two per chip), tpu-v5e, tpu-v5p, tpu-v6e, a100, h100, h200, cpu.
"""
_PARTS = ("training", "decoding")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.epilog = _EPILOG
    parser.add_argument("--device", required=True, metavar="NAME", help="device to plan for, such as tpu-v5p or h100")
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="number of devices")
    parser.add_argument("--mesh", metavar="DxM", help="data x model axis, such as 64x4 (default: the gin file's)")
    parser.add_argument("--slice", metavar="SHAPE", help="grid of a TPU slice, such as 4x4x8 (default: most cubic)")
    parser.add_argument("--documents", type=int, metavar="N", help="number of documents in the corpus")
    parser.add_argument(
        "--terms",
        type=int,
        metavar="N",
        help="mean number of distinct terms in a document, for a lexical plan (default: 50, a passage of 90 words)",
    )
    experiment_options(parser)
    parser.add_argument("--queries", type=int, metavar="N", help="queries searched together (default: the gin file's)")
    parser.add_argument("--beams", type=int, metavar="N", help="number of beams (default: the gin file's)")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="the parts (default: both)")
    parser.add_argument(
        "--whole", action="store_true", help="compile all layers of a deep network instead of extrapolating from a few"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the plan to this file as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the plan and print it."""
    from genret_jax.planning.devices import before_jax, device_named, planned_devices

    device, mesh = device_named(args.device), _mesh(args.mesh)
    for option in ("devices", "terms", "queries", "beams"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option} {value}", expected="at least 1", fix=f"change --{option}")
    before_jax(device, args.devices)
    from genret_jax.config.gin_files import planned_experiment
    from genret_jax.planning.docids import USUAL_TERMS
    from genret_jax.planning.plan import PlanRequest, make_plan
    from genret_jax.planning.render import render
    from genret_jax.storage import write_json

    experiment = planned_experiment(*gin_files_and_bindings(args))
    request = PlanRequest(
        experiment=experiment,
        device=device,
        devices=planned_devices(device, args.devices, args.slice),
        mesh=mesh,
        documents=args.documents,
        terms=args.terms or USUAL_TERMS,
        queries=args.queries,
        beams=args.beams,
        parts=tuple(args.parts),
        whole=args.whole,
    )
    plan = make_plan(request, lambda line: print(f"compiling: {line}", file=sys.stderr, flush=True))
    if args.json:
        write_json(args.json, plan)
    print(render(plan))
    return 0


def _mesh(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if sizes is None:
        raise InputError(f"--mesh {text}", expected="data x model, such as 64x4", fix="change --mesh")
    return int(sizes[1]), int(sizes[2])
