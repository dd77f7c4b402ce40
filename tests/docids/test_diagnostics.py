import json
import textwrap

import numpy as np
import pytest

from genret_jax.docids import DocidTable, ResidualKMeans, describe, summary_text, tree_text
from genret_jax.docids.diagnostics import describe_vectors, nearest_by_cosine
from genret_jax.errors import InputError


def make(sequences, document=None, **options):
    count = len(sequences) if document is None else max(document) + 1
    return DocidTable.from_codes(
        [f"d{i}" for i in range(count)], sequences, document=document, strategy={"name": "x"}, corpus_fingerprint="",
        **options,
    )  # fmt: skip


def test_figures_by_hand():
    described = describe(make([(0, 0), (0, 1), (1, 1), (1, 1), (2,)], [0, 1, 2, 3, 3], level_sizes=(4, 2)))
    first, second = described["levels"]
    assert (first["size"], first["used"], first["rows"], first["prefixes"]) == (4, 3, 5, 3)
    assert first["perplexity"] == pytest.approx(np.exp(-2 * 0.4 * np.log(0.4) - 0.2 * np.log(0.2)))
    assert first["perplexity_given_prefix"] == pytest.approx(first["perplexity"])
    assert (second["size"], second["used"], second["rows"], second["prefixes"]) == (2, 2, 4, 3)
    assert second["perplexity"] == pytest.approx(np.exp(-0.25 * np.log(0.25) - 0.75 * np.log(0.75)))
    assert second["perplexity_given_prefix"] == pytest.approx(np.sqrt(2))  # one of two below 0, certain below 1
    assert [level["collision_rate"] for level in (first, second)] == pytest.approx([1 - 3 / 5, 1 - 3 / 4])
    assert described["depth"] == {1: 1, 2: 4}
    assert described["collisions"] == {"docids": 1, "documents": 2, "largest": 2}
    assert (described["documents"], described["docids"], described["rows"]) == (4, 4, 5)
    assert described["documents_with_several_docids"] == 1
    json.dumps(described)


def test_uniform_codes_have_the_perplexity_of_their_number():
    described = describe(make([(i, j) for i in range(3) for j in range(4)]))
    assert [level["perplexity"] for level in described["levels"]] == pytest.approx([3, 4])


def test_the_tree_is_drawn_with_its_documents():
    codes = [(0, 0, 1), (0, 0, 0), (0, 1, 0), (1,), (1, 2), (1, 3), (2, 5), (0, 0, 2), (3, 0)]
    drawn = tree_text(make(codes), [f"title {i}" for i in range(9)], depth=2, branches=2, documents=2)
    assert drawn == textwrap.dedent("""\
        root: 9 docids
        ├─ 0: 4 docids
        │  ├─ 0: 3 docids
        │  │  ├─ 0-0-0  title 1
        │  │  ├─ 0-0-1  title 0
        │  │  └─ … 1 more docid
        │  └─ 0-1-0  title 2
        ├─ 1: 3 docids
        │  ├─ 1  title 3
        │  ├─ 1-2  title 4
        │  └─ … 1 more docid
        └─ … 2 more branches with 2 docids""")


def test_a_docid_that_ends_inside_the_tree_comes_before_its_branches():
    drawn = tree_text(make([(1, 0, 0), (1,), (1, 0, 1)]))
    assert drawn.splitlines() == [
        "root: 3 docids",
        "└─ 1: 3 docids",
        "   ├─ 1  d1",
        "   └─ 0: 2 docids",
        "      ├─ 1-0-0  d0",
        "      └─ 1-0-1  d2",
    ]


def test_documents_of_one_docid_are_all_drawn_and_long_titles_cut():
    drawn = tree_text(make([(0,), (1,), (0,)]), ["a\nb", "x" * 100, "c"])
    assert drawn.splitlines() == [
        "root: 3 docids",
        "├─ 0: 2 docids",
        "│  ├─ 0  a b",
        "│  └─ 0  c",
        "└─ 1  " + "x" * 79 + "…",
    ]


def test_summary_reads():
    text = summary_text(describe(make([(0,), (1,), (0,)])))
    assert "3 documents, 2 docids, 3 tree nodes\nstrategy x" in text
    assert "depth: 3 of 1 codes" in text
    assert "collisions: 1 docids of 2 documents (largest 2)" in text


def test_an_empty_table_is_described():
    assert describe(make([]))["documents"] == 0
    assert tree_text(make([])) == "root: 0 docids"


def test_prefixes_of_neighbours_by_hand():
    # Two directions with three documents each; the docid of one of them is in the other's tree.
    angles = np.array([0, 0.1, 0.2, 1.5, 1.6, 1.7])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [5], [2], [1], [1], [3]])
    table = make([(0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (0, 2)])
    described = describe_vectors(table, vectors, neighbours=2)
    assert (described["documents"], described["neighbours"]) == (6, 2)
    first, second = described["prefixes"]
    # Neighbours are the two of the same direction: all equal for three documents, half for two, none for the last.
    assert first["neighbours"] == pytest.approx((6 + 2) / 12)
    assert first["random"] == pytest.approx((4 * 3 + 2 * 1) / 30)
    assert (second["neighbours"], second["random"]) == (pytest.approx(4 / 12), pytest.approx(4 / 30))
    groups = [[0, 1, 2, 5], [3, 4]]
    left = sum(np.square(vectors[group] - vectors[group].mean(0)).sum() for group in groups)
    assert first["variance_left"] == pytest.approx(left / np.square(vectors - vectors.mean(0)).sum(), rel=1e-4)
    assert second["variance_left"] < first["variance_left"]


def test_nearest_by_brute_force():
    vectors = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1)
    some = np.arange(0, 300, 7)
    np.testing.assert_array_equal(nearest_by_cosine(vectors, some, 4), np.argsort(-cosines[some], 1)[:, :4])


def test_figures_beside_vectors_read():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    vectors += 0.01 * np.random.default_rng(0).standard_normal((30, 3), np.float32)
    quantiser, table = ResidualKMeans(levels=1, codebook=3).fit_and_assign([str(i) for i in range(30)], vectors, 0, "")
    described = describe(table, vectors, quantiser)
    assert [level["collision_rate"] for level in described["levels"]] == [0.9, 0]
    assert described["vectors"]["prefixes"][0]["neighbours"] == pytest.approx(0.9)  # nine of ten
    assert described["vectors"]["prefixes"][1]["neighbours"] == 0
    assert described["vectors"]["relative_errors"][0] == pytest.approx(
        described["vectors"]["prefixes"][0]["variance_left"], rel=1e-3
    )
    text = summary_text(described)
    assert "beside the vectors of 30 documents, with 10 nearest neighbours each" in text
    assert "    1               90.0%          31.03%           0.0%" in text
    assert "variance that is not reconstructed: 0.0%" in text
    json.dumps(described)
    with pytest.raises(InputError, match=r"\[29, 3\]; expected \[30, width\]"):
        describe(table, vectors[1:])


def test_a_single_document_has_no_neighbours():
    assert describe(make([(0,)]), np.ones((1, 2)))["vectors"]["prefixes"] == []
