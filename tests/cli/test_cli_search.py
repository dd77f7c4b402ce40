"""``genret search``: one query, a file, standard input and a prompt."""

import io
import json

import pytest
from support.tiny_run import word

from genret_jax import cli

QUERY = f"{word(3, 14)} {word(3, 15)}"


def genret(capsys, *arguments):
    code = cli.main(["search", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_query_shows_documents_with_their_texts(tiny_run, capsys):
    code, out, _ = genret(capsys, "--run", tiny_run, QUERY, "-k", 3)
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["", QUERY]
    assert lines[2].split()[0] == "1"
    assert "d16" in lines[2]
    assert lines[3].strip().startswith(word(3, 14))
    assert len(lines) == 2 + 3 * 2


def test_json_lines_of_a_file_of_queries(tiny_run, capsys, tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text(f"{QUERY}\n\n  {word(5, 14)}\n{word(6, 18)}")
    code, out, _ = genret(capsys, "--run", tiny_run, "--file", file, "--json", "-k", 2)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["query"] for answer in answers] == [QUERY, word(5, 14), word(6, 18)]
    assert [len(answer["results"]) for answer in answers] == [2, 2, 2]
    first = answers[0]["results"][0]
    assert set(first) == {"rank", "doc_id", "score", "docid", "title"}
    assert (first["rank"], first["doc_id"]) == (1, "d16")


def test_a_query_without_words_does_not_end_a_file(tiny_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("genret_jax.cli.search._TOGETHER", 2)
    file = tmp_path / "queries.txt"
    file.write_text(f"??\n{QUERY}\n...\n!\n{word(5, 14)}\n")
    code, out, err = genret(capsys, "--run", tiny_run, "--file", file, "--json", "-k", 2)
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["query"] for answer in answers] == ["??", QUERY, "...", "!", word(5, 14)]
    assert [len(answer["results"]) for answer in answers] == [0, 2, 0, 0, 2]
    assert answers[1]["results"][0]["doc_id"] == "d16"
    assert err.splitlines() == [
        f"genret: {file}:{number}: the query {query!r} has no words"
        for number, query in ((1, "??"), (3, "..."), (4, "!"))
    ]


def test_standard_input_and_the_prompt(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUERY}\n"))
    code, out, _ = genret(capsys, "--run", tiny_run, "--file", "-", "--json")
    assert (code, json.loads(out)["results"][0]["doc_id"]) == (0, "d16")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUERY}\n??\n{word(5, 14)}\n\nnever asked\n"))
    code, out, err = genret(capsys, "--run", tiny_run, "--json")
    assert code == 0
    assert [json.loads(line)["query"] for line in out.splitlines()] == [QUERY, word(5, 14)]
    assert "41 documents of topics; an empty line ends." in err
    assert "'??') has no words" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--file", "y"], "both a query and --file"),
        (["--file", "/nowhere/queries.txt"], "/nowhere/queries.txt: the file is missing"),
        ([""], "query 1 ('') has no words"),
        (["x", "-k", "5", "--beam", "2"], "5 results of 2 beams"),
        (["x", "-k", "0"], "k is 0; expected at least 1"),
        (["x", "--checkpoint", "7"], "no checkpoint 7"),
        (["x", "--checkpoint", "²"], "no checkpoint '²'"),
        (["x", "--chekpoint", "7"], "did you mean '--checkpoint'?"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tiny_run, capsys, arguments, message):
    code, out, err = genret(capsys, "--run", tiny_run, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("genret: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_file_without_queries_or_of_other_bytes_and_a_folder_without_a_run(tiny_run, tmp_path, capsys):
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n \n")
    latin.write_bytes("größe".encode("latin-1"))
    for file, message in ((empty, "the file is empty; expected a query per line"), (latin, "not UTF-8")):
        code, _, err = genret(capsys, "--run", tiny_run, "--file", file)
        assert code == 2
        assert err.startswith(f"genret: error: {file}:")
        assert message in err
    code, _, err = genret(capsys, "--run", tmp_path, "x")
    assert code == 2
    assert err == (
        f"genret: error: {tmp_path}: no run here (run.json is missing); next: give the folder of a trained run\n"
    )


def test_a_line_of_a_file_is_a_query_whatever_stands_in_it(tiny_run, tmp_path, capsys):
    file = tmp_path / "queries.txt"
    file.write_bytes(f"\ufeff{QUERY}\r\n\n{QUERY}\u2028\x0c{QUERY}\n!\n".encode())
    code, out, err = genret(capsys, "--run", tiny_run, "--file", file, "--json", "-k", 1)
    assert [json.loads(line)["query"] for line in out.split("\n")[:-1]] == [QUERY, f"{QUERY}\u2028\x0c{QUERY}", "!"]
    assert code == 0
    assert f"{file}:4: the query '!' has no words" in err


def test_search_on_several_devices(tiny_run, capsys):
    alone = genret(capsys, "--run", tiny_run, QUERY, "-k", 3)
    assert genret(capsys, "--run", tiny_run, QUERY, "-k", 3, "--model_parallel", 2) == alone
    for wrong, message in ((3, "does not divide the 8 devices"), (0, "expected at least 1")):
        code, _, err = genret(capsys, "--run", tiny_run, QUERY, "--model_parallel", wrong)
        assert code == 2
        assert message in err
