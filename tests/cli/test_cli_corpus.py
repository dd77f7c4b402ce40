"""``genret corpus``: folders made, folders shown, and what is refused."""

import json

import numpy as np
import pytest

from genret_jax import cli
from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.interactions import read_interactions
from genret_jax.data.sources import natural_questions as nq
from genret_jax.data.sources import python_docs


@pytest.fixture
def corpus_folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": "d1", "title": "Roses", "text": "They are red."}, {"_id": "d2", "text": "Violets are blue."}]
    queries = [{"_id": "q1", "text": "red flowers"}, {"_id": "q2", "text": "blue ones"}, {"_id": "q3", "text": "bloom"}]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(header + "q1\td1\t1\n")
    (folder / "qrels" / "test.tsv").write_text(header + "q2\td2\t1\nq3\td2\t1\nq3\td1\t2\n")
    return folder


def test_show_counts_and_samples(corpus_folder, capsys):
    (corpus_folder / "queries_generated.jsonl").write_text('{"_id": "d1", "queries": ["a", "b"]}')
    assert cli.main(["corpus", "show", str(corpus_folder), "--samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "2 documents (1 with a title, 0 without any text, 3 words on average), 3 queries, fingerprint "
    )
    assert lines[1] == "  train: 1 queries, 1 relevant pairs"
    assert lines[2].startswith("  test: 2 queries, 3 relevant pairs, 1 seen and 1 unseen")
    assert lines[3] == "  generated: 2 queries for 1 documents"
    assert "  [test] bloom" in lines
    assert lines[lines.index("  [test] bloom") + 1] == "      -> d1: Roses. They are red."  # the best of two


def test_show_reports_damage_in_one_line(corpus_folder, capsys):
    (corpus_folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n{"_id"')
    assert cli.main(["corpus", "show", str(corpus_folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"genret: error: {corpus_folder / 'corpus.jsonl'}:2: broken JSON")
    assert captured.err.count("\n") == 1


def test_python_docs_writes_a_folder_and_never_over_another(tmp_path, monkeypatch, capsys):
    library = tmp_path / "library"
    library.mkdir()
    documented = "".join(f'def f{n}():\n    """Do thing {n}x.\n\n    In way {n}."""\n' for n in range(60))
    (library / "module.py").write_text(documented)
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda name: str(library))
    out = tmp_path / "docs"
    assert cli.main(["corpus", "python-docs", "--out", str(out), "--validation", "0.1"]) == 0
    printed = capsys.readouterr().out
    corpus = read_beir(out)
    assert set(corpus.qrels) == {"train", "validation", "test"}
    assert printed.startswith(f"{out}: 60 documents")
    assert f"  validation: {len(corpus.qrels['validation']):,} queries" in printed
    before = (out / "corpus.jsonl").read_bytes()
    assert cli.main(["corpus", "python-docs", "--out", str(out)]) == 2
    assert "the output already exists" in capsys.readouterr().err
    assert (out / "corpus.jsonl").read_bytes() == before


def test_nq_hands_over_its_options(tmp_path, monkeypatch, capsys):
    asked = {}

    def fake(size, **options):
        asked.update(size=size, **options)
        return Corpus(name="nq", doc_ids=("1",), titles=("A",), texts=("b",), queries={"1": "c"})

    monkeypatch.setattr(nq, "natural_questions", fake)
    out = tmp_path / "nq"
    options = ["--size", "100k", "--identity", "text", "--seed", "7", "--data-dir", "somewhere"]
    assert cli.main(["corpus", "nq", "--out", str(out), *options]) == 0
    assert asked == {"size": "100k", "identity": "text", "seed": 7, "data_dir": "somewhere", "download": False}
    assert read_beir(out).queries == {"1": "c"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["python-docs"], "--out"),
        (["nq", "--out", "x", "--size", "5k"], "invalid choice: '5k'"),
        (["amazon", "--out", "x", "--reviews", "y"], "--metadata"),
        (["movielens", "--out", "x", "--folder", "y", "--ties", "item"], "invalid choice: 'item'"),
        (["toy-items", "--out", "x", "--items", "3"], "300 users, 3 items and seed 0"),
        (["toy-items", "--out", "x", "--seed", "-1"], "a seed of at least 0"),
        (["python-docs", "--out", "x", "--validation", "much"], "invalid float value: 'much'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    assert cli.main(["corpus", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "kind",
    [[], *([kind] for kind in ("python-docs", "nq", "amazon", "movielens", "recbole", "s3rec", "toy-items", "show"))],
)
def test_help_has_an_example(kind, capsys):
    assert cli.main(["corpus", *kind, "--help"]) == 0
    assert "genret corpus " in capsys.readouterr().out.split("example")[1]


@pytest.fixture
def shop_folder(tmp_path, capsys):
    folder = tmp_path / "shop"
    assert cli.main(["corpus", "toy-items", "--out", str(folder), "--users", "20", "--items", "24"]) == 0
    capsys.readouterr()
    return folder


def shown(folder, capsys, samples=0):
    assert cli.main(["corpus", "show", str(folder), "--samples", str(samples)]) == 0
    return capsys.readouterr().out.splitlines()


def test_toy_items_are_made_and_shown(tmp_path, capsys):
    out = str(tmp_path / "shop")
    arguments = ["corpus", "toy-items", "--out", out, "--users", "20", "--items", "24"]
    assert cli.main(arguments) == 0
    made = capsys.readouterr().out.splitlines()
    assert made[0].startswith(f"{out}: 20 users, 24 items, ")
    found = shown(out, capsys)
    assert f"{out}: {found[0]}" == made[0]
    assert found[1:] == made[1:]
    assert found[3] == "  evaluated by leaving out the last item: 20 users"
    assert found[-1] == "  vectors: no embeddings.npy; they can be made from the texts"
    assert cli.main(arguments) == 2
    assert "the output already exists" in capsys.readouterr().err


def test_show_prints_the_last_items_of_histories(shop_folder, capsys):
    interactions = read_interactions(shop_folder)
    lines = shown(shop_folder, capsys, samples=2)
    length = int(interactions.lengths[0])
    place = lines.index(f"  user u0, {length} items")
    assert lines[place + 1] == f"      … {length - 5} before"
    last = interactions.history(0)[-1]
    assert lines[place + 6] == f"      {interactions.items.doc_ids[last]}: {interactions.items.titles[last]}"
    assert sum(line.startswith("  user ") for line in lines) == 2


@pytest.mark.parametrize(
    ("vectors", "line"),
    [
        (np.ones((24, 8), np.float16), "embeddings.npy fits: 24×8, float16"),
        (np.ones((23, 8), np.float32), "embeddings.npy does not fit: 23×8 for 24 items"),
        (np.ones(24, np.float32), "embeddings.npy does not fit: 24 for 24 items"),
    ],
)
def test_show_says_whether_vectors_fit(vectors, line, shop_folder, capsys):
    np.save(shop_folder / "embeddings.npy", vectors)
    assert shown(shop_folder, capsys)[-1] == f"  vectors: {line}"


def test_show_reports_vectors_that_cannot_be_read(shop_folder, capsys):
    (shop_folder / "embeddings.npy").write_bytes(b"no array")
    assert cli.main(["corpus", "show", str(shop_folder)]) == 2
    assert f"{shop_folder / 'embeddings.npy'}: not a readable .npy file" in capsys.readouterr().err
    with open(shop_folder / "embeddings.npy", "wb") as handle:
        np.savez(handle, a=np.ones(3))
    assert cli.main(["corpus", "show", str(shop_folder)]) == 2
    assert "embeddings.npy: an archive of arrays; expected one array" in capsys.readouterr().err


def write_sources(folder):
    """Three users with the same three items, as each of the sources has it."""
    events = [(user, item, time) for user in "123" for time, item in enumerate("789")]
    (folder / "u.data").write_text("".join(f"{user}\t{item}\t5\t{time}\n" for user, item, time in events))
    flags = "|".join("0" * 19)
    (folder / "u.item").write_text("".join(f"{item}|Item {item}|||x|{flags}\n" for item in "789"))
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "log.inter").write_text(header + "".join(f"{user}\t{item}\t{time}\n" for user, item, time in events))
    (folder / "log.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tItem {i}\n" for i in "789"))
    reviews = [{"reviewerID": user, "asin": item, "unixReviewTime": time} for user, item, time in events]
    (folder / "reviews.json").write_text("\n".join(map(json.dumps, reviews)))
    metadata = [{"asin": item, "title": f"Item {item}", "price": "$3.00"} for item in "789"]
    (folder / "meta.json").write_text("\n".join(map(json.dumps, metadata)))
    (folder / "sequences.txt").write_text("".join(f"{user} 7 8 9\n" for user in "123"))
    (folder / "titles.tsv").write_text("".join(f"{item}\tItem {item}\n" for item in "789"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["movielens", "--folder", ".", "--core", "3"],
        ["recbole", "--folder", ".", "--core", "3", "--ties", "random"],
        ["amazon", "--reviews", "reviews.json", "--metadata", "meta.json", "--core", "3", "--no-price"],
        ["s3rec", "--sequences", "sequences.txt", "--titles", "titles.tsv"],
    ],
)
def test_imports_write_a_folder_and_a_report(arguments, tmp_path, monkeypatch, capsys):
    write_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["corpus", *arguments, "--out", "made"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("made: 3 users, 3 items, 9 interactions (of a user 3.00 on average, 3 in the median)\n")
    found = read_interactions("made")
    assert found.items.texts == ("Item 7.", "Item 8.", "Item 9.")
    assert found.item.tolist() == [0, 1, 2] * 3
    report = json.loads((tmp_path / "made" / "import.json").read_text())
    assert (report["events"], report["items_without_text"]) == (9, 0)
    assert cli.main(["corpus", *arguments, "--out", "made"]) == 2
    assert "the output already exists" in capsys.readouterr().err


def test_an_import_that_fails_leaves_nothing(tmp_path, capsys):
    write_sources(tmp_path)
    arguments = ["corpus", "movielens", "--folder", str(tmp_path), "--out", str(tmp_path / "made")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "no user with three interactions is left of 9 events, 3 users and 3 items by the 5-core filter" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_show_says_when_there_is_nothing_to_make_vectors_from(tmp_path, capsys):
    (tmp_path / "s.txt").write_text("1 7 8 9\n")
    assert cli.main(["corpus", "s3rec", "--sequences", str(tmp_path / "s.txt"), "--out", str(tmp_path / "made")]) == 0
    assert "genret: warning: " in capsys.readouterr().err
    lines = shown(tmp_path / "made", capsys, samples=1)
    assert lines[5] == "  vectors: no embeddings.npy, and no texts to make them from"
    assert lines[-1] == "      9: (no text)"
