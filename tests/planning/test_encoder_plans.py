"""Plans of runs that begin with a pretrained encoder, against a real run of the same experiment."""

import dataclasses

import jax
import numpy as np
import pytest
from support.encoder_runs import encoder_experiment

from genret_jax.errors import InputError
from genret_jax.models.config import PlanConfig, T5Config
from genret_jax.models.encoders.config import BertConfig
from genret_jax.models.shapes import named_shapes
from genret_jax.parallel.mesh import make_mesh
from genret_jax.planning.devices import DEVICES
from genret_jax.planning.docids import PlannedDocids, distinct_terms, planned_docids
from genret_jax.planning.plan import PlanRequest, make_plan
from genret_jax.planning.programs import TrainingPlan
from genret_jax.planning.render import render
from genret_jax.planning.tables import docids_in_training, plan_tables
from genret_jax.run import prepare_only
from genret_jax.training.left_out import VECTORS

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning", "ignore:.*vectors are zero")
KINDS = PlanConfig(codes=True, dense=True, terms=8)


@pytest.fixture(scope="module", params=[0, 64], ids=["texts", "pool"])
def run(request, tiny_corpus, tmp_path_factory):
    """A prepared run with every kind of plan and a decoder."""
    plan = dataclasses.replace(KINDS, dense_dtype="int8" if request.param else "bfloat16")
    experiment = encoder_experiment(tiny_corpus, plan=plan, layers=1, pool=request.param)
    return prepare_only(experiment, tmp_path_factory.mktemp("planned") / "run")[0]


def described(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), tree)


def planned_like(run) -> PlannedDocids:
    """What a plan would know if it had guessed the docids and the number of terms of a run."""
    mean = round(run.parts.plan_documents(run.model.plan, run.store).weights.nnz / len(run.corpus))
    nodes = run.encoded.tree.num_nodes
    given = {"documents": len(run.corpus), "encoded": run.encoded, "codec": run.codec, "nodes": nodes}
    return PlannedDocids(**given, model=run.model, terms=mean)


def test_parameters_are_those_of_the_network(run):
    experiment = dataclasses.replace(run.experiment, docids=str(run.folder / "docids"))
    docids = planned_docids(experiment, len(run.corpus), terms=9)
    mesh = make_mesh(devices=jax.devices()[:1])
    plan = TrainingPlan(experiment=experiment, docids=docids, mesh=mesh, device=DEVICES["h100"])
    planned, real = named_shapes(plan.like.params), named_shapes(run.param_shapes())
    assert planned.pop("plan/term_weights") == (distinct_terms(9 * len(run.corpus)),)  # by Heaps' law
    assert real.pop("plan/term_weights") == (run.store.num_terms,)
    assert planned == real


def test_tables_are_those_of_the_run(run):
    docids = planned_like(run)
    planned, real = docids_in_training(docids), run.task().plan
    for name in ("postings", "weights"):
        sizes = [getattr(one.tables, name).shape[0] for one in (planned, real)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)  # the mean is rounded
    without = {"postings": None, "weights": None}
    planned, real = (one.replace(tables=one.tables.replace(**without)) for one in (planned, real))
    assert described(planned) == described(real)
    assert described(plan_tables(docids).replace(**without)) == described(run.plan_tables.replace(**without))


def test_batches_are_those_of_the_run(run):
    plan = TrainingPlan(experiment=run.experiment, docids=planned_like(run), mesh=make_mesh(), device=DEVICES["h100"])
    real = run.task().batch(0)
    planned = plan.batch(len(real["document"]))
    if VECTORS not in real:  # only where means of queries are part of the documents' vectors
        planned.pop(VECTORS)
    assert described(planned) == described(real)


@pytest.mark.parametrize("run", [0], indirect=True)
def test_training_and_search_are_planned(run):
    request = PlanRequest(
        experiment=run.experiment, device=DEVICES["h100"], devices=jax.devices(), mesh=(4, 2), documents=500, terms=9
    )
    made = make_plan(request, lambda line: None)
    tables = plan_tables(planned_docids(run.experiment, 500, terms=9))
    for part in ("training", "decoding"):
        assert made[part]["bytes_a_device"]["plan"] >= tables.num_bytes
        assert made[part]["bytes_a_device"]["total"] > tables.num_bytes
        assert made[part]["layers"] == "all 2 + 1 layers compiled"
        assert made[part]["flops"] > made[part]["analytic_flops"] / 2
    assert made["docids"]["plan_bytes"] == tables.num_bytes
    assert "with 9 distinct terms a document" in render(made)


def test_an_encoder_that_is_not_here(tiny_corpus):
    missing = dataclasses.replace(encoder_experiment(tiny_corpus, plan=KINDS), encoder="e5-small-v2")
    with pytest.raises(InputError, match="next: run 'genret encoder get e5-small-v2'"):
        planned_docids(missing, 100)


def test_heaps_law_by_the_book():
    """Reuters-RCV1: 38,323 terms are predicted in the first 1,000,020 tokens."""
    assert distinct_terms(1_000_020) == pytest.approx(38_323, rel=0.001)


def test_the_vocabulary_of_an_encoder_need_not_divide():
    bert = BertConfig(vocab_size=30522, num_heads=12)
    config = T5Config(
        encoder=bert, d_model=384, num_heads=12, vocab_size=30522, decoder_vocab_size=64, plan=PlanConfig(codes=True)
    )
    config.require_divides(4)
    with pytest.raises(InputError, match=r"a model axis of 8 and T5Config\.num_heads of 12"):
        config.require_divides(8)
