"""Every gin file of gin_configs/t5x gives t5x what it asks for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.run import open_run
from genret_jax.run.folder import examples_of

pytestmark = pytest.mark.t5x
SHIPPED = gin_configs_folder() / "t5x"
NETWORKS = sorted(file.stem for file in SHIPPED.glob("models/*.gin"))
TRAINING = [*sorted(file.stem for file in SHIPPED.glob("nq*.gin")), "beir", "finetune", "like_genret"]

# Stands in for t5x's programs, and prints what they would be called with.
PROGRAMS = """
import json, sys
import gin
import seqio
from genret_jax.data.seqio import tasks as seqio_tasks
from t5x import gin_utils
called = {}
@gin.configurable
def train(**arguments): called.update(arguments, program="train")
@gin.configurable
def evaluate(**arguments): called.update(arguments, program="evaluate")
@gin.configurable
def infer(**arguments): called.update(arguments, program="infer")

def shown(arguments):
    model, partitioner = arguments["model"], arguments["partitioner"]
    data = arguments.get("train_dataset_cfg") or arguments["dataset_cfg"]
    layout = partitioner.get_data_layout(data.batch_size)
    return {
        "program": arguments["program"],
        "config": vars(model.module.config),
        "consistency": model.consistency,
        "beams": model._default_decoder_params.num_decodes,
        "steps": arguments.get("total_steps"),
        "task": data.mixture_or_task_name, "split": data.split, "pack": data.pack,
        "lengths": data.task_feature_lengths,
        "batch": layout.batch_size,
        "mesh": dict(partitioner.mesh.shape),
        "write": getattr(arguments.get("write_fn"), "__name__", None),
    }

for name, (files, bindings) in json.loads(sys.argv[1]).items():
    called.clear()
    gin.clear_config(clear_constants=True)
    seqio.TaskRegistry.reset(), seqio.MixtureRegistry.reset(), seqio_tasks._registered.clear()
    with gin.unlock_config():
        gin_utils.parse_gin_flags([sys.argv[2], *sys.path], files, bindings)
    for program in (train, evaluate, infer):
        if any(program.__name__ == selector.split(".")[-1] for _, selector in gin.config._CONFIG):
            program()
    print("RESULT", name, json.dumps(shown(called)))
"""


@pytest.fixture(scope="module")
def results(t5x_engine, text_head_run, tmp_path_factory) -> dict[str, Any]:
    run = str(text_head_run)
    everywhere = ["MODEL_DIR = 'm'", "CHECKPOINT_PATH = 'c'", "EVAL_OUTPUT_DIR = 'e'", "INFER_OUTPUT_DIR = 'i'"]
    by_run, by_store = [f"RUN = {run!r}"], [f"EXAMPLES = {examples_of(run)!r}"]
    wanted = {name: ([f"t5x/{name}.gin", "t5x/prepared_run.gin"], by_run) for name in [*TRAINING, "eval", "infer"]}
    wanted |= {
        f"models/{name}": (["t5x/finetune.gin", f"t5x/models/{name}.gin"], [*by_store, "TRAIN_STEPS = 5"])
        for name in NETWORKS
    }
    for name in ("finetune", "like_genret"):
        wanted[name] = (wanted[name][0], [*by_run, "TRAIN_STEPS = 5"])
    wanted["partitions"] = (["t5x/eval.gin", "t5x/prepared_run.gin"], [*by_run, "PjitPartitioner.num_partitions = 2"])
    network = ["t5x/finetune.gin", "t5x/models/t5_1_1_tiny.gin"]
    wanted["consistency"] = (network, [*by_store, "TRAIN_STEPS = 5", "t5x_engine.RetrievalModel.consistency = 0.15"])
    arguments = {name: (files, [*bindings, *_used(files, everywhere)]) for name, (files, bindings) in wanted.items()}
    script = tmp_path_factory.mktemp("gin") / "programs.py"
    script.write_text(PROGRAMS)
    command = [sys.executable, str(script), json.dumps(arguments), str(gin_configs_folder())]
    output = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert output.returncode == 0, output.stderr[-4000:]
    lines = [line.split(" ", 2)[1:] for line in output.stdout.splitlines() if line.startswith("RESULT")]
    return {name: json.loads(found) for name, found in lines}


def _used(files: list[str], bindings: list[str]) -> list[str]:
    """Those bindings whose macros the program of these files has."""
    kind = {"t5x/eval.gin": ("CHECKPOINT", "EVAL"), "t5x/infer.gin": ("CHECKPOINT", "INFER")}.get(files[0], ("MODEL",))
    return [binding for binding in bindings if binding.startswith(kind)]


def test_no_shipped_file_is_left_out_here(results):
    files = {file.relative_to(SHIPPED).with_suffix("").as_posix() for file in SHIPPED.rglob("*.gin")}
    assert files == (set(results) | {"retrieval", "prepared_run"}) - {"partitions", "consistency"}
    assert [name.removeprefix("t5_1_1_") for name in NETWORKS] == ["base", "large", "small", "tiny", "xl", "xxl"]


@pytest.mark.parametrize("name", [*TRAINING, "eval", "infer"])
def test_a_run_is_of_the_prepared_folder(name, results, text_head_run):
    run, found = open_run(text_head_run), results[name]
    assert found["config"] == json.loads(json.dumps(vars(run.model)))
    assert found["program"] == {"eval": "evaluate", "infer": "infer"}.get(name, "train")
    assert found["split"] == ("train" if found["program"] == "train" else "test")
    assert found["task"] == {"infer": "dsi_retrieval"}.get(name, "dsi")
    assert found["lengths"] == {"inputs": run.sampler.input_length, "targets": run.store.docid_length}
    assert (found["pack"], found["beams"], found["mesh"]) == (False, 100, {"data": 8, "model": 1})
    assert found["write"] == ("write_rankings" if name == "infer" else None)


def test_runs_have_their_steps(results):
    assert {name: results[name]["steps"] for name in TRAINING} == {
        "nq10k": 100_000, "nq100k": 200_000, "nq320k": 1_000_000, "beir": 20_000, "finetune": 5, "like_genret": 5,
    }  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_shape_of_our_own_file(name, results):
    config = results[f"models/{name}"]["config"]
    lines = (SHIPPED.parent / "models" / f"{name}.gin").read_text().splitlines()
    own = dict(line.removeprefix("T5Config.").split(" = ") for line in lines if line.startswith("T5Config."))
    assert len(own) > 8
    for field, text in own.items():
        value = eval(text)
        assert config[field] == (list(value) if isinstance(value, tuple) else value), field
    assert (config["dtype"], config["head"], config["dropout_rate"]) == ("bfloat16", "vocabulary", 0.1)


def test_partitions_are_bound_as_t5x_users_know_it(results):
    assert results["partitions"]["mesh"] == {"data": 4, "model": 2}


def test_consistency_is_bound_as_the_documentation_says(results):
    assert (results["consistency"]["consistency"], results["models/t5_1_1_tiny"]["consistency"]) == (0.15, 0)
    assert (
        "--gin.t5x_engine.RetrievalModel.consistency=0.15"
        in (Path(__file__).resolve().parents[3] / "docs" / "nci.md").read_text()
    )


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.gin")), ids=lambda file: file.stem)
def test_heads_name_files_that_exist(file: Path):
    text = file.read_text()
    named = {word.strip("\"',") for word in text.replace("--gin_file=", " ").split() if ".gin" in word}
    for name in (name for name in named if name.endswith(".gin")):
        assert list(SHIPPED.parent.glob(name)) or name.startswith("t5x/configs"), name
    if file.stem not in ("retrieval", "prepared_run"):
        program = {"eval": "t5x.eval", "infer": "t5x.infer"}.get(file.stem, "t5x.train")
        assert f"python -m {program} --gin_search_paths=gin_configs" in text
