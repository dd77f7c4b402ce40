"""``python -m t5x.train``, ``t5x.eval`` and ``t5x.infer`` as people run them, beside our own engine."""

import shutil
import socket
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.t5x_programs import LIKE_OURS, finished, losses, rankings, searched, t5x
from support.tiny_run import text_head_experiment

from genret_jax.data.examples.sampler import Sampler
from genret_jax.problems import Problem
from genret_jax.run import open_run, train_run
from genret_jax.training import read_metrics
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.t5x.checkpoint import write_t5x_params

pytestmark = pytest.mark.t5x
STEPS, BEAMS = 20, 10


@pytest.fixture(scope="module")
def place(t5x_engine, text_head_run, tmp_path_factory) -> Path:
    """A folder with the initial parameters as a t5x checkpoint and the gin file."""
    folder = tmp_path_factory.mktemp("runs")
    write_t5x_params(folder / "start", open_run(text_head_run).start_params())
    (folder / "like_ours.gin").write_text(LIKE_OURS)
    return folder


def start_training(place: Path, run: Path, name: str, *options: str, steps: int = STEPS, **changes: Any) -> Any:
    macros = {"RUN": str(run), "MODEL_DIR": name, "TRAIN_STEPS": steps}
    macros["INITIAL_CHECKPOINT_PATH"] = "start/checkpoint_0"
    return t5x("train", place, [place / "like_ours.gin"], *options, **macros, **changes)


@pytest.fixture(scope="module")
def trained(place, text_head_run) -> Path:
    """The MODEL_DIR of a run on eight devices, stopped after half of its steps and resumed."""
    finished(start_training(place, text_head_run, "whole", steps=STEPS // 2))
    finished(start_training(place, text_head_run, "whole"))
    return place / "whole"


@pytest.fixture(scope="module")
def ours(place, text_head_run, tiny_corpus) -> Problem:
    """The run, trained by our own engine from the same parameters on the same examples."""
    shutil.copytree(text_head_run, place / "ours")
    with pytest.warns(UserWarning, match="neither title nor text"):
        return train_run(text_head_experiment(tiny_corpus), place / "ours")


def test_losses_are_those_of_our_own_engine(trained, ours):
    expected = {record["step"]: record["loss"] for record in read_metrics(ours.folder) if record["kind"] == "train"}
    found = losses(trained)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    assert expected[STEPS] < 0.8 * expected[1]
    np.testing.assert_allclose([found[s] for s in expected], list(expected.values()), atol=1e-4)


@pytest.fixture(scope="module")
def inferred(trained, place, text_head_run) -> Any:
    """The rankings of the test queries by t5x.infer."""
    macros = {"RUN": str(text_head_run), "CHECKPOINT_PATH": f"{trained.name}/checkpoint_{STEPS}", "BEAMS": BEAMS}
    files = ["t5x/infer.gin", "t5x/prepared_run.gin"]
    finished(t5x("infer", place, files, BATCH_SIZE=16, INFER_OUTPUT_DIR="inferred", **macros))
    return rankings(place / "inferred")


def test_infer_ranks_as_our_retriever_does_with_the_same_checkpoint(inferred, trained, text_head_run):
    wanted = searched(text_head_run, str(trained), BEAMS)
    assert list(inferred) == list(wanted)
    for query, results in wanted.items():
        assert [doc for doc, _ in inferred[query]] == [doc for doc, _ in results]
        np.testing.assert_allclose([s for _, s in inferred[query]], [s for _, s in results], atol=1e-3)


def test_both_engines_training_ranks_the_same_ten_documents(inferred, ours):
    wanted = searched(ours.folder, "last", BEAMS)
    assert {query: [doc for doc, _ in found] for query, found in inferred.items()} == {
        query: [doc for doc, _ in found] for query, found in wanted.items()
    }


def test_eval_reports_the_same_metrics_as_our_rankings_have(inferred, trained, place, text_head_run):
    macros = {"RUN": str(text_head_run), "CHECKPOINT_PATH": f"{trained.name}/checkpoint_{STEPS}", "BEAMS": BEAMS}
    files = ["t5x/eval.gin", "t5x/prepared_run.gin"]
    output = finished(
        t5x("eval", place, files, "--alsologtostderr", BATCH_SIZE=16, EVAL_OUTPUT_DIR="evaluated", **macros)
    )
    qrels = open_run(text_head_run).corpus.qrels["test"]
    hits = np.mean([any(doc in qrels[query] for doc, _ in found) for query, found in inferred.items()])
    assert f"dsi_retrieval/hits@10 at step {STEPS}: {100 * hits:.3f}" in output
    assert 0 < hits < 1


@pytest.mark.parametrize(("partitions", "devices"), [(2, 8), (2, 2), (1, 1)])
def test_partitions_do_not_change_the_losses(partitions, devices, place, trained, text_head_run):
    name = f"{partitions}_of_{devices}"
    options = {"PjitPartitioner.num_partitions": partitions}
    finished(start_training(place, text_head_run, name, steps=6, devices=devices, **options))
    found, wanted = losses(place / name), losses(trained)
    np.testing.assert_allclose([found[s] for s in range(1, 7)], [wanted[s] for s in range(1, 7)], atol=1e-5)


def test_two_processes_take_steps_in_turn(place, text_head_run):
    """seqio divides the numbered steps over hosts: the first batch has half of the rows of the first two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        start_training(
            place, text_head_run, "two", "--multiprocess_gpu", f"--coordinator_address=127.0.0.1:{port}",
            "--process_count=2", f"--process_index={index}", steps=6, devices=1,
        )
        for index in range(2)
    ]  # fmt: skip
    for process in processes:
        finished(process)
    run = open_run(text_head_run)
    task = RetrievalTask(run.model, Sampler(run.store, run.sampler, seed=0, batch_size=16), None, z_loss=1e-4)
    halves = [task.sampler.batch(step, np.arange(8)) for step in (0, 1)]
    batch = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
    total, weight, _ = task.loss(run.start_params(), jax.tree.map(jnp.asarray, batch), jax.random.key(0))
    found = losses(place / "two")
    np.testing.assert_allclose(found[1], total / weight, atol=1e-5)
    assert found[6] < 0.9 * found[1]


def test_what_is_wrong_is_the_last_line(place, text_head_run):
    output = finished(start_training(place, text_head_run, "wrong", **{"PjitPartitioner.num_partitions": 3}), code=1)
    assert "PjitPartitioner.num_partitions=3 for 8 devices; expected a divisor of the number of devices" in output
