"""``genret plan``: what a run needs on devices that are not here, by compiling its steps for them."""

import argparse
import re
import sys

from genret_jax.cli import experiment_options, gin_files_and_bindings
from genret_jax.errors import InputError

HELP = "compile training and search for devices that are not here: memory, communication, time"

_EPILOG = """
examples:
  genret plan --device tpu-v5e --devices 256 --mesh 64x4 --documents 320000 \\
      --gin_file runs/dsi_t5.gin --gin_file models/t5_1_1_xxl.gin
  genret plan --device h100 --devices 8 --documents 8800000 --gin_file runs/dsi_atomic_from_scratch.gin --json plan.json

No corpus is read and nothing is trained: --documents says how many there are, the gin files everything else. For TPUs
the real compiler is asked (pip install libtpu; no TPU is needed), for other devices the CPU's, on as many CPU devices
as planned: its memory and operations are estimates. Times are rooflines of the vendors' peaks, which nothing reaches.
Devices: tpu-v4 (two a chip), tpu-v5e, tpu-v5p, tpu-v6e, a100, h100, h200, cpu.
"""
_PARTS = ("training", "decoding")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("--device", required=True, metavar="NAME", help="what to plan for, such as tpu-v5p or h100")
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="how many of them")
    parser.add_argument("--mesh", metavar="DxM", help="data x model axis (default: the trainer's of the gin file)")
    parser.add_argument(
        "--slice", metavar="SHAPE", help="grid of a TPU slice, such as 4x4x8 (default: as cubic as can be)"
    )
    parser.add_argument("--documents", type=int, metavar="N", help="documents of the corpus")
    experiment_options(parser)
    parser.add_argument("--queries", type=int, metavar="N", help="queries searched together (default: the gin file's)")
    parser.add_argument("--beams", type=int, metavar="N", help="beams of the search (default: the gin file's)")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to plan (default: both)")
    parser.add_argument(
        "--whole", action="store_true", help="compile all layers of a deep network instead of extrapolating from a few"
    )
    parser.add_argument("--json", metavar="FILE", help="write the plan there as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    from genret_jax.planning.devices import device_named
    from genret_jax.planning.topology import before_jax, planned_devices

    device, mesh = device_named(args.device), _mesh(args.mesh)
    for option in ("devices", "queries", "beams"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option} {value}", expected="at least 1", fix=f"change --{option}")
    before_jax(device, args.devices)
    from genret_jax.config.gin_files import planned_experiment
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
