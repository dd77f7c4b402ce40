"""A plan on several devices: queries and the network are spread over them, and every one has all tables."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.encoder_runs import FROZEN, encoder_experiment

from genret_jax.inference import Ranker
from genret_jax.models.config import PlanConfig
from genret_jax.parallel.mesh import make_mesh, placed_on
from genret_jax.run import prepare_only, train_run
from genret_jax.training.step import gradient_sum

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning", "ignore:.*vectors are zero")
MESHES = [("bfloat16", 4, 1), ("bfloat16", 1, 2), ("bfloat16", 2, 2), ("int8", 2, 2)]  # data, model


def experiment(corpus, dtype, rates=(), **fields):
    plan = PlanConfig(codes=True, dense=True, dense_dtype=dtype, terms=8)
    return encoder_experiment(corpus, plan=plan, layers=1, rates=rates, model={"query_width": 8}, **fields)


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """An untrained run of each type of vectors, with every kind of plan and a decoder."""
    folder = tmp_path_factory.mktemp("mesh")
    return {dtype: prepare_only(experiment(tiny_corpus, dtype), folder / dtype)[0] for dtype in ("bfloat16", "int8")}


def mesh_of(data, model):
    return make_mesh(data_parallel=data, model_parallel=model)


@pytest.mark.parametrize(("dtype", "data", "model"), MESHES)
def test_loss_and_gradients_are_those_of_one_device(runs, dtype, data, model):
    run, mesh = runs[dtype], mesh_of(data, model)
    task, params, key = run.task(), run.params("start"), jax.random.key(1)
    batch = task.batch(0)
    assert "left_out_terms" in batch

    def differentiate(params, batch, key, arrays):
        return gradient_sum(task, params, batch, key, 1, arrays)

    with jax.threefry_partitionable(True):
        gradients, totals = jax.jit(differentiate)(params, batch, key, task.arrays)
        on_mesh, everywhere = run.params("start", mesh), NamedSharding(mesh, PartitionSpec())
        places = jax.tree.map(lambda leaf: leaf.sharding, on_mesh)
        spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        with placed_on(mesh):
            together = jax.jit(differentiate, out_shardings=(places, everywhere))
            found, of_mesh = together(on_mesh, spread, key, jax.device_put(task.arrays, everywhere))
    np.testing.assert_allclose(of_mesh["loss"], totals["loss"], rtol=1e-5)
    np.testing.assert_array_equal(of_mesh["token_accuracy"], totals["token_accuracy"])
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4 * float(np.abs(one).max()) + 1e-6)


@pytest.mark.parametrize(("dtype", "data", "model"), MESHES)
def test_search_finds_what_one_device_finds(runs, dtype, data, model):
    run = runs[dtype]
    tokens = run.some_requests("test", 13).tokens  # no multiple of the data axis
    rankings = [
        Ranker(run.model, run.encoded, run.params("start", mesh), run.plan_tables).rank(tokens, beam=16)
        for mesh in (None, mesh_of(data, model))
    ]
    alone, together = rankings
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-4, atol=1e-4)
    differ = together.documents != alone.documents  # only where scores are equal but for rounding
    assert np.abs((together.scores - alone.scores)[differ]).max(initial=0) < 1e-4
    assert differ.mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "pool"), [((), 0), (FROZEN, 64)], ids=["whole", "frozen, with a pool"])
def test_a_run_trains_on_a_mesh_as_on_one_device(rates, pool, tiny_corpus, tmp_path):
    """With its validation, which searches on the mesh."""
    given = experiment(tiny_corpus, "bfloat16", rates, steps=2, pool=pool)
    found = []
    for data, model in ((1, 1), (2, 2)):
        trainer = dataclasses.replace(given.trainer, data_parallel=data, model_parallel=model)
        run = train_run(dataclasses.replace(given, trainer=trainer), tmp_path / f"{data}x{model}")
        tokens = run.some_requests("test", 13).tokens
        for checkpoint in ("start", "last"):
            ranker = Ranker(run.model, run.encoded, run.params(checkpoint), run.plan_tables)
            found.append(np.sort(ranker.rank(tokens, beam=16).scores, axis=1))
    start, alone, _, together = found
    # Scores and not parameters: Adam moves those without a true gradient, such as biases of keys, by rounding alone.
    np.testing.assert_allclose(together, alone, atol=0.02 * np.abs(alone - start).max())
