import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.docids import EOS_CODE, AtomicDocids, DocidTable, NaiveStringDocids, PackedStrings
from genret_jax.errors import InputError


def make(sequences, document=None, **options):
    count = len(sequences) if document is None else max(document) + 1
    options = {"strategy": {"name": "by hand"}, "corpus_fingerprint": "c0"} | options
    return DocidTable.from_codes([f"d{i}" for i in range(count)], sequences, document=document, **options)


def edges(table):
    return {
        (p, c): i for i, (p, c) in enumerate(zip(table.node_parent.tolist(), table.node_code.tolist(), strict=True))
    }


def walk(table, codes):
    node, children = 0, edges(table)
    for code in codes:
        node = children[node, code]
    return node


rows_of_codes = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)),
    min_size=1,
    unique=True,
).map(lambda rows: [(i, (5,)) for i in range(5)] + rows)  # every document has a docid, and all share this one


def test_a_prefix_of_another_docid_gets_an_end_node():
    table = make([(1, 2), (1, 2, 3), (0,)])
    # root -> 0, 1; 1 -> 2; 2 -> 3; and last the end of (1, 2)
    assert table.node_parent.tolist() == [-1, 0, 0, 2, 3, 3]
    assert table.node_code.tolist() == [-1, 0, 1, 2, 3, EOS_CODE]
    assert table.row_node.tolist() == [3, 4, 1]
    assert table.level_sizes == (2, 3, 4)
    assert table.codes.tolist() == [1, 2, 1, 2, 3, 0]
    assert table.offsets.tolist() == [0, 2, 5, 6]
    assert table.docid(1) == (1, 2, 3)
    assert table.padded().tolist() == [[1, 2, -1], [1, 2, 3], [0, -1, -1]]


def test_an_array_padded_with_minus_one_is_the_same_as_lists():
    assert make([(1, 2), (3,)]).fingerprint == make(np.array([[1, 2], [3, -1]])).fingerprint


@settings(max_examples=60, deadline=None)
@given(rows_of_codes)
def test_the_tree_is_the_set_of_prefixes(rows):
    table = make([codes for _, codes in rows], [document for document, _ in rows])
    sequences = {codes for _, codes in rows}
    prefixes = {codes[:depth] for codes in sequences for depth in range(len(codes) + 1)}
    inner = {codes[:depth] for codes in sequences for depth in range(len(codes))}
    assert len(edges(table)) == table.num_nodes == len(prefixes) + len(sequences & inner)
    assert (table.node_parent < np.arange(table.num_nodes)).all()
    for row, (document, codes) in enumerate(rows):
        assert table.docid(row) == codes
        assert table.document[row] == document
        assert table.row_node[row] == walk(table, codes)
        assert ((table.row_node[row], EOS_CODE) in edges(table)) == (codes in inner)


@settings(max_examples=60, deadline=None)
@given(rows_of_codes, st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=6))
def test_append_keeps_documents_rows_and_nodes(rows, further):
    old = make([codes for _, codes in rows], [document for document, _ in rows])
    new = old.append([f"new{i}" for i in range(len(further))], further, corpus_fingerprint="c1")
    assert new.corpus_fingerprint == "c1"
    assert new.node_parent[: old.num_nodes].tolist() == old.node_parent.tolist()
    assert new.node_code[: old.num_nodes].tolist() == old.node_code.tolist()
    assert new.row_node[: old.num_rows].tolist() == old.row_node.tolist()
    assert list(new.doc_ids)[: old.num_documents] == list(old.doc_ids)
    assert [new.docid(row) for row in range(old.num_rows, new.num_rows)] == [tuple(codes) for codes in further]
    at_once = make([c for _, c in rows] + further, [d for d, _ in rows] + list(range(5, 5 + len(further))))
    paths = [sorted(_paths(table)) for table in (new, at_once)]
    assert paths[0] == paths[1]
    assert new.level_sizes == at_once.level_sizes


def _paths(table):
    path = {0: ()}
    for node in range(1, table.num_nodes):
        path[node] = (*path[int(table.node_parent[node])], int(table.node_code[node]))
    return path.values()


def test_append_makes_an_end_for_an_old_docid_that_became_a_prefix():
    table = make([(1,)]).append(["d1"], [(1, 0)])
    assert table.node_parent.tolist() == [-1, 0, 1, 1]
    assert table.node_code.tolist() == [-1, 1, 0, EOS_CODE]


def test_append_gives_an_old_document_a_second_docid():
    table = make([(0,), (1,)]).append([], [(2,)], document=[0])
    assert table.num_documents == 2
    assert table.document.tolist() == [0, 1, 0]
    assert table.docid(2) == (2,)


def test_several_documents_of_one_docid_keep_their_order():
    table = make([(7,), (3,), (7,)], [2, 0, 1])
    assert table.row_node[0] == table.row_node[2]
    assert table.document[table.row_node == table.row_node[0]].tolist() == [2, 1]


@settings(max_examples=20, deadline=None)
@given(rows_of_codes, st.lists(st.text(st.characters(codec="utf-8")), min_size=5, max_size=5, unique=True))
def test_saved_and_loaded_it_is_the_same(tmp_path_factory, rows, names):
    folder = tmp_path_factory.mktemp("tables") / "table"
    table = DocidTable.from_codes(
        names, [c for _, c in rows], document=[d for d, _ in rows], strategy={"name": "x"}, corpus_fingerprint="c"
    )
    table.save(folder)
    loaded = DocidTable.load(folder)
    for field in dataclasses.fields(DocidTable):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(table, field.name))
    assert loaded.fingerprint == table.fingerprint
    assert list(loaded.doc_ids) == names


def test_fingerprint_changes_with_ids_codes_and_levels():
    table = make([(0,), (1,)])
    others = [make([(0,), (2,)]), make([(0,), (1,)], level_sizes=(5,)), table.append(["x"], [(4,)])]
    others.append(DocidTable.from_codes(["d0", "d2"], [(0,), (1,)], strategy=table.strategy, corpus_fingerprint="c0"))
    assert len({t.fingerprint for t in [table, *others]}) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": [(0,), ()]}, "'d1' has no or an empty docid"),
        ({"sequences": [(0,), (1,)], "document": [0, 0]}, None),
        ({"sequences": [(0,), (1,)], "document": [0, 2]}, "'d1' has no or an empty docid"),
        ({"sequences": [(0,), (0,)], "document": [0, 0]}, "'d0' has the same docid twice"),
        ({"sequences": [(0, -1, 2)]}, "code -1 at level 1 of row 0"),
        ({"sequences": np.array([[0, -1, 2]])}, "code -1 at level 1 of row 0"),
        ({"sequences": np.array([[0.5]])}, "float64"),
        ({"sequences": [(2**31,)]}, "code 2147483648"),
        ({"sequences": [(0,), (5, 10**9)]}, "code 1000000000 at level 1 of row 1; expected codes below 65536"),
        ({"sequences": [(0,), (3,)], "level_sizes": (3,)}, "code 3 at level 0 of document 'd1'"),
        ({"sequences": [(0, 1)], "level_sizes": (3,)}, "code 1 at level 1 of document 'd0'"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    if message is None:
        assert make(**arguments).num_documents == 1
        return
    with pytest.raises(InputError, match=message):
        make(**arguments)


def test_codes_may_be_as_many_as_a_large_corpus_or_given_sizes_need():
    assert make(np.arange(5000)[:, None] * 16 + 15).level_sizes == (80000,)
    assert make([(10**6,)], level_sizes=(2**20,)).append(["d1"], [(2**20 - 1,)]).level_sizes == (2**20,)
    with pytest.raises(InputError, match=r"code 1048576 at level 0 of row 0; expected codes below 1048576"):
        make([(10**6,)], level_sizes=(2**20,)).append(["d1"], [(2**20,)])


@pytest.mark.parametrize("size", [10**9, -1, 2.5, "7"])
def test_a_folder_with_a_level_of_impossible_size_is_refused(size, tmp_path):
    """Its memory would grow with that size: tables of earlier versions may have one."""
    make([(0,), (1,)]).save(tmp_path / "table")
    manifest = tmp_path / "table" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"level_sizes": [size]}))
    with pytest.raises(InputError, match=rf"table: level sizes \[.?{size}.?\]; expected integers up to 16,777,216"):
        DocidTable.load(tmp_path / "table")
    with pytest.raises(InputError, match="1000000000"):
        make([(0,)], level_sizes=(10**9,)).save(tmp_path / "large")


def test_repeated_ids_and_wrong_counts_are_refused():
    with pytest.raises(InputError, match="'a' occurs twice"):
        DocidTable.from_codes(["a", "b", "a"], [(0,)] * 3, strategy={}, corpus_fingerprint="")
    with pytest.raises(InputError, match="1 code sequences for 2 documents"):
        DocidTable.from_codes(["a", "b"], [(0,)], strategy={}, corpus_fingerprint="")
    with pytest.raises(InputError, match="document index 3"):
        make([(0,)]).append([], [(1,)], document=[3])


def test_another_corpus_is_refused():
    make([(0,)]).require_corpus("c0")
    with pytest.raises(InputError, match=r"^folder: docids of another corpus.*expected docids of the corpus.*c9"):
        make([(0,)]).require_corpus("c9", file="folder")


def test_a_folder_that_holds_no_table_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no docid_table here"):
        DocidTable.load(tmp_path)


def test_packed_strings_are_a_sequence():
    strings = PackedStrings.pack(["", "a", "日本", "x\ny"])
    assert (len(strings), strings[2], strings[-1], strings[1:3]) == (4, "日本", "x\ny", ("a", "日本"))
    assert strings == PackedStrings.pack(list(strings))
    with pytest.raises(IndexError):
        strings[4]


def test_atomic_docids_are_one_code_a_document():
    table = AtomicDocids().assign(["x", "y", "z"], None, 0, "c")
    assert [table.docid(row) for row in range(3)] == [(0,), (1,), (2,)]
    assert table.level_sizes == (3,)


def test_naive_docids_are_the_digits_of_shuffled_numbers():
    table = NaiveStringDocids().assign([str(i) for i in range(120)], None, 3, "c")
    numbers = ["".join(map(str, table.docid(row))) for row in range(120)]
    assert sorted(numbers, key=int) == [str(i) for i in range(120)]
    assert numbers != sorted(numbers, key=int)
    assert table.level_sizes == (10, 10, 10)
    again = NaiveStringDocids().assign([str(i) for i in range(120)], None, 3, "c")
    assert again.fingerprint == table.fingerprint
    assert NaiveStringDocids().assign(["only"], None, 0, "c").docid(0) == (0,)
