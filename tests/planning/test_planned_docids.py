"""Docids of a corpus that is not there, and an index stretched from some subtrees to all documents."""

import numpy as np
import pytest

from genret_jax.config.gin_files import planned_experiment
from genret_jax.docids import (
    AtomicDocids,
    HierarchicalKMeans,
    LshDocids,
    NaiveStringDocids,
    NpyDocids,
    ProductQuantization,
    RandomDocids,
    ResidualKMeans,
    RqVae,
)
from genret_jax.errors import InputError
from genret_jax.planning.docids import index_shapes, planned_codes, planned_docids, tree_shapes

PREFIX = ["T5Config.plan = None", "T5Config.num_decoder_layers = 1", "T5Config.head = 'prefix'"]


def test_clusters_of_equal_size_by_hand():
    codes, sizes = planned_codes(HierarchicalKMeans(branching=2, leaf_size=2), 7, 100)
    assert codes.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert sizes == [2, 2, 2]


def test_some_subtrees_come_from_under_every_first_code():
    codes, sizes = planned_codes(HierarchicalKMeans(branching=10, leaf_size=10), 100_000, 2_000)
    assert (len(codes), sizes) == (2_000, [10] * 5)
    assert set(codes[:, 0]) == set(range(10))
    assert len(np.unique(codes[:, :4], axis=0)) == 200  # all of them full


@pytest.mark.parametrize(
    "strategy",
    [
        AtomicDocids(),
        NaiveStringDocids(),
        HierarchicalKMeans(branching=3, leaf_size=4),
        ResidualKMeans(levels=3, codebook=8),
        ProductQuantization(levels=3, codebook=8),
        RqVae(),
        LshDocids(levels=2, hyperplanes=3),
        RandomDocids(levels=2, codebook=9),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_docids_differ(strategy):
    codes, sizes = planned_codes(strategy, 1_000, 10_000)
    assert len(np.unique(codes, axis=0)) == len(codes) == 1_000
    assert (codes.max(0) < sizes).all()


def test_docids_of_a_file_are_there(tmp_path):
    np.save(tmp_path / "codes.npy", np.array([[1, 0], [0, 4], [1, 0]]))
    codes, sizes = planned_codes(NpyDocids(path=str(tmp_path / "codes.npy")), 3, 100)
    assert (codes.tolist(), sizes) == ([[1, 0], [0, 4], [1, 0]], [2, 5])
    with pytest.raises(InputError, match="3 rows of codes; expected 4"):
        planned_codes(NpyDocids(path=str(tmp_path / "codes.npy")), 4, 100)


@pytest.mark.parametrize("recipe", ["runs/dsi_semantic_from_scratch.gin", "runs/dsi_atomic_from_scratch.gin"])
def test_stretched_shapes_are_about_those_of_all_documents(recipe):
    experiment = planned_experiment([recipe], PREFIX)
    whole, some = planned_docids(experiment, 200_000), planned_docids(experiment, 200_000, most=20_000)
    assert (whole.scale, some.length) == (1, whole.length)
    assert some.built <= 20_000
    assert some.scale * some.built == pytest.approx(200_000)
    assert some.model.num_nodes == pytest.approx(whole.model.num_nodes, rel=0.02)
    assert some.model.output_vocab_size == whole.model.output_vocab_size
    assert index_shapes(some).num_bytes == pytest.approx(index_shapes(whole).num_bytes, rel=0.03)
    for name in ("child_nodes", "child_offsets"):
        shapes = [getattr(tree_shapes(docids), name).shape[0] for docids in (some, whole)]
        assert shapes[0] == pytest.approx(shapes[1], rel=0.02)
    assert tree_shapes(some).root_fanout == tree_shapes(whole).root_fanout


def test_a_stretched_index_of_few_docids_is_too_large_rather_than_too_small():
    """What lies near the root is stretched too, though it does not grow."""
    experiment = planned_experiment(["runs/dsi_semantic_from_scratch.gin"], PREFIX)
    whole, some = planned_docids(experiment, 40_000), planned_docids(experiment, 40_000, most=4_000)
    assert 1 <= index_shapes(some).num_bytes / index_shapes(whole).num_bytes < 1.08


@pytest.mark.parametrize("documents", [None, 1])
def test_a_number_of_documents_is_needed(documents):
    with pytest.raises(InputError, match=r"number of documents to plan for is (missing|1); expected at least 2"):
        planned_docids(planned_experiment(["runs/dsi_atomic_from_scratch.gin"]), documents)


def test_a_strategy_of_the_user_is_planned_by_its_levels():
    class Own:
        levels, codebook, separate = 2, 16, True

    codes, sizes = planned_codes(Own(), 100, 1_000)
    assert len(np.unique(codes, axis=0)) == 100
    assert sizes[:2] == [16, 16]
    with pytest.raises(InputError, match="docids of object"):
        planned_codes(object(), 100, 1_000)
