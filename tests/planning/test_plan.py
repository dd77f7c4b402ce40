"""Plans against what is measured: arrays' bytes, the compiled step's memory, operations by hand; and wrong meshes."""

import dataclasses
import json

import jax
import pytest

from genret_jax.cli import main
from genret_jax.config.gin_files import planned_experiment
from genret_jax.errors import InputError
from genret_jax.parallel.mesh import make_mesh
from genret_jax.planning.devices import DEVICES, slice_shape
from genret_jax.planning.docids import planned_docids
from genret_jax.planning.plan import PlanRequest, make_plan, what_does_not_fit
from genret_jax.planning.programs import TrainingPlan
from genret_jax.planning.render import render

TINY = {
    "VocabularyConfig.kind": "'bytes'",
    "VocabularyConfig.path": None,
    "T5Config.vocab_size": 64,
    "T5Config.d_model": 32,
    "T5Config.d_kv": 8,
    "T5Config.num_heads": 4,
    "T5Config.d_ff": 64,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
    "TrainerConfig.batch_size": 16,
    "EvaluationConfig.beam": 4,
}
WIDE = {"T5Config.d_model": 256, "T5Config.num_heads": 8, "T5Config.d_kv": 64, "T5Config.d_ff": 1024}


def request(changed: dict | None = None, mesh: tuple[int, int] | None = (4, 2), **fields) -> PlanRequest:
    bindings = [f"{name} = {value}" for name, value in {**TINY, **(changed or {})}.items()]
    experiment = planned_experiment(["runs/dsi_t5.gin"], bindings)
    given = {"device": DEVICES["h100"], "devices": jax.devices(), "documents": 500, **fields}
    return PlanRequest(experiment=experiment, mesh=mesh, **given)


@pytest.fixture(scope="module")
def asked() -> PlanRequest:
    return request()


@pytest.fixture(scope="module")
def plan(asked):
    return make_plan(dataclasses.replace(asked, parts=("training",)), lambda line: None)


@pytest.fixture(scope="module")
def trained(asked):
    """The real state on the mesh, and the real compiled step of it."""
    docids = planned_docids(asked.experiment, 500)
    made = TrainingPlan(
        experiment=asked.experiment, docids=docids, mesh=make_mesh(model_parallel=2), device=asked.device
    )
    steps = made.steps(docids.model)
    params = made.task(docids.model).init(jax.random.key(0))["params"]
    return jax.jit(steps.first_state, out_shardings=steps.shardings)(params), made.trace(docids.model).lower().compile()


def on_first_device(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_bytes_are_those_of_the_arrays(plan, trained):
    state, _ = trained
    planned = plan["training"]["bytes_a_device"]
    assert planned["parameters"] == on_first_device(state.params)
    assert planned["optimizer"] == on_first_device(state.optimizer_state)
    assert plan["training"]["parameters"]["total"] == sum(leaf.size for leaf in jax.tree.leaves(state.params))


def test_temporaries_are_those_of_the_compiled_step(plan, trained):
    memory = trained[1].memory_analysis()
    planned = plan["training"]["bytes_a_device"]
    assert planned["temporaries"] == memory.temp_size_in_bytes
    # Activations, batch and all: in the total, but no part of it twice.
    assert planned["total"] >= planned["parameters"] + planned["optimizer"] + planned["temporaries"]
    assert planned["total"] < 1.1 * (planned["parameters"] + planned["optimizer"] + planned["temporaries"]) + 50_000


def test_operations_are_about_those_of_the_matrix_products(plan):
    """At this size all that is no product, and what both model devices do, is a good part."""
    assert 1 < plan["training"]["flops"] / plan["training"]["analytic_flops"] < 3


@pytest.mark.slow
def test_a_search_is_planned_too(asked):
    made = make_plan(dataclasses.replace(asked, parts=("decoding",)), lambda line: None)
    assert 1 < made["decoding"]["flops"] / made["decoding"]["analytic_flops"] < 3
    assert made["decoding"]["bytes_a_device"]["index"] == made["docids"]["index_bytes"]
    assert "constrained search of 64 queries of 32 tokens, 4 beams" in render(made)


@pytest.mark.slow
def test_a_wide_network_does_little_but_products():
    made = make_plan(request({**WIDE, "TrainerConfig.batch_size": 64}, (8, 1), parts=("training",)), lambda line: None)
    assert made["training"]["flops"] / made["training"]["analytic_flops"] == pytest.approx(1.1, abs=0.15)


@pytest.mark.slow
def test_an_adaptive_decoder_and_a_second_pass_are_counted():
    more = {"T5Config.adaptive_layers": 2, "T5Config.adaptive_width": 64, "Experiment.consistency": 0.1}
    asked = request({**WIDE, **more, "TrainerConfig.batch_size": 64}, (8, 1))
    made = make_plan(asked, lambda line: None)
    assert made["training"]["flops"] / made["training"]["analytic_flops"] == pytest.approx(1.1, abs=0.15)
    parameters = made["training"]["parameters"]
    assert parameters["decoder/adaptive"] == 256 * 64 * 256
    # Its vectors of all docids are there before a search, which is then one by the prefix head.
    assert made["decoding"]["flops"] / made["decoding"]["analytic_flops"] < 3


def test_the_gradient_is_summed_over_the_data_axis(plan):
    held = plan["training"]["bytes_a_device"]["parameters"]
    assert plan["training"]["collective_bytes"]["all-reduce"] >= held
    assert plan["training"]["sent_bytes"]["network"] == 0  # eight devices are one machine


def test_memory_that_does_not_suffice_is_named(plan):
    small = dataclasses.replace(DEVICES["h100"], memory=1000)
    (line,) = what_does_not_fit(plan, small)
    assert line.startswith("training: 0.0 GB of 0.0 GB a device, most of it ")
    assert f"DOES NOT FIT  {line}" in render({**plan, "does_not_fit": [line]})
    refused = {**plan["training"], "refused": "too large"}
    assert what_does_not_fit({"training": refused}, small) == ["training: the compiler refuses it: too large"]


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ((4, 4), "a mesh of 4x4 on 8 devices; expected data x model = 8"),
        ((1, 8), "a model axis of 8 and T5Config.num_heads of 4"),
    ],
)
def test_a_mesh_that_does_not_divide(mesh, message, asked):
    with pytest.raises(InputError, match=message):
        make_plan(dataclasses.replace(asked, mesh=mesh), lambda line: None)


def test_queries_that_do_not_divide(asked):
    with pytest.raises(InputError, match="6 queries over a data axis of 4"):
        make_plan(dataclasses.replace(asked, queries=6, parts=("decoding",)), lambda line: None)


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        ("tpu-v5e", 256, "16x16"),
        ("tpu-v5e", 8, "2x4"),
        ("tpu-v5p", 4, "2x2x1"),
        ("tpu-v5p", 64, "4x4x4"),
        ("tpu-v5p", 256, "4x8x8"),
        ("tpu-v4", 8, "2x2x1"),
    ],
)
def test_slices_are_as_cubic_as_can_be(name, count, shape):
    assert slice_shape(DEVICES[name], count) == shape


def test_no_slice_has_any_number_of_devices():
    with pytest.raises(InputError, match="12 devices of tpu-v5e; expected a power of two"):
        slice_shape(DEVICES["tpu-v5e"], 12)


@pytest.fixture
def command(monkeypatch):
    """The command as it runs beside other tests: their jax stays as it is."""
    monkeypatch.setattr("genret_jax.planning.devices.before_jax", lambda device, count: None)
    gin = [f"--gin={name}={value}" for name, value in TINY.items()]
    base = ["plan", "--device", "h100", "--gin-file", "runs/dsi_t5.gin", *gin, "--documents", "300"]
    return lambda *more: main([*base, *more])


@pytest.mark.slow
def test_the_command_prints_a_plan_and_writes_it(command, tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert command("--devices", "4", "--mesh", "2x2", "--json", str(path), "--parts", "training") == 0
    printed = capsys.readouterr()
    assert "compiling: training step, 1 + 1 layers" in printed.err
    assert "4 x h100, mesh of data 2 x model 2; compiled by the CPU compiler: an estimate" in printed.out
    assert "everything fits" in printed.out
    assert json.loads(path.read_text())["training"]["layers"] == "all 1 + 1 layers compiled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "8", "--mesh", "3x2"], "a mesh of 3x2 on 8 devices; expected data x model = 8"),
        (["--devices", "8", "--mesh", "8"], "--mesh 8; expected data x model, such as 64x4"),
        (["--devices", "0"], "--devices 0; expected at least 1"),
        (["--devices", "8", "--device", "h1000"], "no device 'h1000'; expected one of tpu-v4"),
        (["--devices", "8", "--slice", "2x4"], "a slice 2x4 of h100; expected a TPU"),
        (["--devices", "999"], "jax was started with 8 CPU devices, and the plan needs 999"),
    ],
)
def test_what_cannot_be_planned_is_one_line(options, message, command, capsys):
    assert command(*options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--gin-file", "--gin_file"])
def test_both_spellings_name_a_gin_file(option, monkeypatch, capsys):
    monkeypatch.setattr("genret_jax.planning.devices.before_jax", lambda device, count: None)
    assert main(["plan", "--device", "h100", "--devices", "8", "--documents", "9", option, "nowhere.gin"]) == 2
    assert "nowhere.gin" in capsys.readouterr().err


ATOMIC = {
    "Experiment.docids": "@AtomicDocids()",
    "T5Config.head": "'prefix'",
    "Experiment.start": None,
    "Experiment.codec": "'per_level'",
}


def test_atomic_docids_are_divided_over_the_model_axis():
    """With their logits: what differentiation keeps of them halves with every halving of the share."""
    kept, held = [], []
    for model_parallel in (1, 2, 4):
        asked = request({**ATOMIC, "T5Config.d_model": 8}, documents=8000)
        docids = planned_docids(asked.experiment, 8000)
        mesh = make_mesh(model_parallel=model_parallel)
        planned = TrainingPlan(experiment=asked.experiment, docids=docids, mesh=mesh, device=asked.device)
        found = planned.bytes_held()
        rows = 16 * model_parallel // 8
        kept.append(found["activations_kept_by_differentiation"] / rows)
        held.append(found["parameters"])
    assert kept[0] > 8000 * 4
    assert kept[1] < 0.6 * kept[0]
    assert kept[2] < 0.65 * kept[1]
    assert held[2] < 0.3 * held[0]
