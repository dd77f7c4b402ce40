"""Plan a run on hardware you don't have: the memory, communication and least time of its steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import numpy as np
from jax.sharding import Mesh

from genret_jax.config.experiment import Experiment
from genret_jax.decoding import DocidIndex
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.parallel.mesh import DATA, MODEL, make_mesh
from genret_jax.planning.collectives import KINDS
from genret_jax.planning.counting import Counts, OutOfMemoryError, count_by_layers, depths, roofline, total_bytes
from genret_jax.planning.devices import Device
from genret_jax.planning.docids import USUAL_TERMS, PlannedDocids, index_shapes, planned_docids
from genret_jax.planning.programs import DecodingPlan, TrainingPlan
from genret_jax.planning.tables import plan_tables
from genret_jax.training.batches import check_batch

Json = dict[str, Any]
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The run to plan.

    Attributes:
        experiment: The experiment; its corpus is not read.
        device: Device that the mesh consists of.
        devices: JAX devices to compile for, from :func:`~genret_jax.planning.devices.planned_devices`.
        mesh: Sizes of the data and the model axis; None takes the experiment's.
        documents: Number of documents; None if the experiment names a saved docid table.
        terms: Mean number of distinct terms in a document, for a lexical plan.
        queries: Number of queries searched together; None takes the experiment's, rounded up to the data axis.
        beams: Number of beams; None takes the experiment's.
        parts: ``"training"``, ``"decoding"`` or both.
        whole: Compile all layers of a deep network instead of extrapolating from a few.
    """

    experiment: Experiment
    device: Device
    devices: list[Any]
    mesh: tuple[int, int] | None = None
    documents: int | None = None
    terms: int = USUAL_TERMS
    queries: int | None = None
    beams: int | None = None
    parts: tuple[str, ...] = ("training", "decoding")
    whole: bool = False


def make_plan(request: PlanRequest, log: Log) -> Json:
    """Compile an experiment's steps for the devices and return the plan as JSON values.

    Args:
        request: The run to plan.
        log: Called with a line of text before each part that takes time.

    Raises:
        InputError: If the mesh does not divide the devices, the network, the batch or the queries.
    """
    experiment = request.experiment
    mesh = _mesh(request)
    log("docids and their index")
    docids = planned_docids(experiment, request.documents, terms=request.terms)
    docids.model.require_divides(mesh.shape[MODEL])
    index = index_shapes(docids)
    plan: Json = {
        "device": request.device.name,
        "devices": mesh.size,
        "compiled_by": "the TPU compiler" if request.device.generation else "the CPU compiler: an estimate",
        "mesh": dict(mesh.shape),
        "docids": {
            "documents": docids.documents,
            "built": docids.built,
            "tokens_of_the_longest": docids.length,
            "output_vocab_size": docids.model.output_vocab_size,
            "index_bytes": index.num_bytes,
        },
    }
    if (tables := plan_tables(docids)) is not None:
        plan["docids"]["plan_bytes"] = tables.num_bytes
        if docids.model.plan_terms:
            plan["docids"]["terms_of_a_document"] = docids.terms
    if "training" in request.parts:
        plan["training"] = _training(request, docids, mesh, log)
    if "decoding" in request.parts:
        plan["decoding"] = _decoding(request, docids, index, mesh, log)
    plan["does_not_fit"] = what_does_not_fit(plan, request.device)
    return plan


def _mesh(request: PlanRequest) -> Mesh:
    trainer = request.experiment.trainer
    data, model = request.mesh or (trainer.data_parallel, trainer.model_parallel)
    count = len(request.devices)
    if data is not None and data * model != count:
        raise InputError(
            f"a mesh of {data}x{model} on {count} devices",
            expected=f"data x model = {count}",
            fix="change the mesh or the number of devices",
        )
    return make_mesh(data_parallel=data, model_parallel=model, devices=request.devices)


def _training(request: PlanRequest, docids: PlannedDocids, mesh: Mesh, log: Log) -> Json:
    trainer = request.experiment.trainer
    plan = TrainingPlan(experiment=request.experiment, docids=docids, mesh=mesh, device=request.device)
    batch = {name: np.broadcast_to(np.zeros(()), shape.shape) for name, shape in plan.batch(trainer.batch_size).items()}
    check_batch(batch, trainer, mesh)
    # Shallow networks lack some of the layers that have a rate of their own.
    whole = request.whole or any("layers_" in path for path, _ in trainer.learning_rates)
    counted = _counted(plan, whole, log)
    found = {
        "parameters": _parameters(plan.like.params),
        "batch_size": trainer.batch_size,
        "input_length": request.experiment.sampler.input_length,
        **counted,
    }
    return found if "refused" in found else {**found, "examples_a_day": _rates(found, trainer.batch_size * 86400)}


def _decoding(request: PlanRequest, docids: PlannedDocids, index: DocidIndex, mesh: Mesh, log: Log) -> Json:
    experiment, data = request.experiment, mesh.shape[DATA]
    queries = request.queries or -(-experiment.evaluation.batch_size // data) * data
    if queries % data:
        raise InputError(
            f"{queries} queries over a data axis of {data}",
            expected=f"a multiple of {data}",
            fix="change the number of queries",
        )
    plan = DecodingPlan(
        docids=docids,
        index=index,
        mesh=mesh,
        device=request.device,
        queries=queries,
        length=experiment.sampler.input_length,
        beams=request.beams or experiment.evaluation.beam,
    )
    counted = _counted(plan, request.whole, log)
    found = {"queries": queries, "beams": plan.beams, "query_length": plan.length, **counted}
    return found if "refused" in found else {**found, "queries_a_second": _rates(found, queries)}


def _counted(plan: TrainingPlan | DecodingPlan, whole: bool, log: Log) -> Json:
    """Compile a program and return what it needs on one device; only the bytes if the compiler refuses its size."""

    def count_model(config: T5Config) -> Counts:
        encoder, decoder = depths(config)
        log(f"{plan.name}, {encoder} + {decoder} layers")
        return plan.count(config)

    held = plan.bytes_held()
    try:
        counts, how = count_by_layers(plan.model, count_model, whole=whole)
    except OutOfMemoryError as error:
        return {"refused": str(error), "bytes_a_device": {**held, "total": sum(held.values())}}
    memory = {**held, "temporaries": counts["bytes/temp"], "program": counts["bytes/generated_code"]}
    return {
        "layers": how,
        "bytes_a_device": {**memory, "total": total_bytes(counts)},
        "collective_bytes": {kind: counts[f"collective/{kind}"] for kind in KINDS},
        "sent_bytes": {way: counts[f"sent/{way}"] for way in ("link", "network")},
        "flops": counts["flops"],
        "analytic_flops": counts["products"],
        "bytes_accessed": counts["bytes_accessed"],
        "roofline_seconds": roofline(counts, plan.device),
    }


def _rates(program: Json, examples: int) -> dict[str, float]:
    """Return the examples per second that a program's least times allow."""
    times = program["roofline_seconds"]
    return {name: examples / times[name] for name in ("overlapped", "one_after_another")}


def _parameters(params: Any) -> dict[str, int]:
    """Return the number of parameters of each part of the network, the largest part first."""
    parts: dict[str, int] = {}
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        stack = any(name.startswith("layers_") for name in path)
        part = f"{path[0]} layers" if stack else "/".join(path[:-1])
        parts[part] = parts.get(part, 0) + int(np.prod(leaf.shape))
    return {"total": sum(parts.values()), **dict(sorted(parts.items(), key=lambda item: -item[1]))}


def what_does_not_fit(plan: Json, device: Device) -> list[str]:
    """Return a line for each program of a plan that does not fit into a device's memory."""
    lines = []
    for part in [name for name in ("training", "decoding") if name in plan]:
        sizes = dict(plan[part]["bytes_a_device"])
        total = sizes.pop("total")
        if "refused" in plan[part]:
            lines.append(f"{part}: the compiler refuses it: {plan[part]['refused']}")
        elif device.memory is not None and total > device.memory:
            sizes.pop("program")
            largest = max(sizes, key=sizes.__getitem__)
            lines.append(
                f"{part}: {total / 1e9:.1f} GB of {device.memory / 1e9:.1f} GB a device, "
                f"most of it {largest.replace('_', ' ')} ({sizes[largest] / 1e9:.1f} GB)"
            )
    return lines
