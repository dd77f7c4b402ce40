"""MovieLens in its layouts."""

import re

import pytest

from genret_jax.data.sources.movielens import movielens
from genret_jax.errors import InputError

# user, movie, time: user 7 in the opposite order of the file.
RATINGS = [(7, 1, 300), (7, 20, 200), (7, 3, 100), (8, 1, 1), (8, 20, 2), (8, 3, 3)]
TEXTS = {
    "1": "Amélie (2001). Genres: Comedy, Romance.",
    "20": "American President, The (1995).",
    "3": "Heat (1995). Genres: Action.",
}


def flags(*genres):
    return "|".join("1" if number in genres else "0" for number in range(19))


def write_100k(folder):
    rows = "".join(f"{user}\t{movie}\t4\t{time}\n" for user, movie, time in RATINGS)
    movies = (
        f"1|Amélie (2001)|01-Jan-2001||http://x|{flags(5, 14)}\n"
        f"20|American President, The (1995)|01-Jan-1995||http://x|{flags(0)}\n"
        f"3|Heat (1995)|01-Jan-1995||http://x|{flags(1)}\n"
    )
    (folder / "u.data").write_text(rows)
    (folder / "u.item").write_bytes(movies.encode("latin-1"))


def write_dat(folder, encoding="latin-1"):
    rows = "".join(f"{user}::{movie}::4.5::{time}\n" for user, movie, time in RATINGS)
    movies = (
        "1::Amélie (2001)::Comedy|Romance\n20::American President, The (1995)::(no genres listed)\n"
        "3::Heat (1995)::Action\n"
    )
    (folder / "ratings.dat").write_text(rows)
    (folder / "movies.dat").write_bytes(movies.encode(encoding))


def write_csv(folder):
    rows = "".join(f"{user},{movie},4.5,{time}\r\n" for user, movie, time in RATINGS)
    movies = (
        "movieId,title,genres\r\n1,Amélie (2001),Comedy|Romance\r\n"
        '20,"American President, The (1995)",(no genres listed)\r\n3,Heat (1995),Action\r\n'
    )
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + rows)
    (folder / "movies.csv").write_text(movies, encoding="utf-8")


def fails(folder):
    with pytest.raises(InputError) as caught:
        movielens(folder, core=1)
    return str(caught.value)


@pytest.mark.parametrize("write", [write_100k, write_dat, lambda folder: write_dat(folder, "utf-8"), write_csv])
def test_each_layout_gives_the_same(write, tmp_path):
    write(tmp_path)
    found, report = movielens(tmp_path, core=2)
    assert found.name == tmp_path.name
    assert found.user_ids == ("7", "8")
    assert [found.items.doc_ids[i] for i in found.history(0)] == ["3", "20", "1"]
    assert dict(zip(found.items.doc_ids, found.items.texts, strict=True)) == TEXTS
    assert found.items.titles[0] == "Amélie (2001)"
    assert (report.events, report.out_of_order) == (6, 2)


def test_a_folder_without_ratings_is_reported(tmp_path):
    assert "no ratings of MovieLens here; expected u.data with u.item or ratings.dat with movies.dat" in fails(tmp_path)
    assert "the folder is missing" in fails(tmp_path / "nowhere")
    inner = tmp_path / "ml-1m"
    inner.mkdir()
    write_dat(inner)
    assert f"next: give {inner}" in fails(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("u.data", "1\t2\t5\n", "u.data:1: 3 columns in '1\\t2\\t5'; expected 4"),
        ("u.data", "1\t2\t5\tnoon\n", "u.data:1: 'timestamp' is 'noon'"),
        ("u.data", "\t2\t5\t7\n", "u.data:1: 'userId' is ''"),
        ("u.data", "", "u.data: no events"),
        ("u.item", "1|Heat|01-Jan-1995||x|0|1\n", "u.item:1: 7 columns"),
        ("u.item", "", "u.item: no text for any of the 3 items"),
    ],
)
def test_what_is_wrong_is_reported(file, content, message, tmp_path):
    write_100k(tmp_path)
    (tmp_path / file).write_text(content)
    assert message in fails(tmp_path)


def test_the_movies_must_be_there(tmp_path):
    write_100k(tmp_path)
    (tmp_path / "u.item").unlink()
    assert "u.item: the file is missing" in fails(tmp_path)


@pytest.mark.parametrize("file", ["ratings.csv", "movies.csv"])
def test_a_csv_file_begins_with_its_header(file, tmp_path):
    write_csv(tmp_path)
    lines = (tmp_path / file).read_text(encoding="utf-8").splitlines()
    (tmp_path / file).write_text("\n".join(lines[1:]), encoding="utf-8")
    assert re.search(f"{file}:1: no column '(userId|movieId)'.*expected a header", fails(tmp_path))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_columns_of_csv_files_are_found_by_name(order, tmp_path):
    write_csv(tmp_path)
    rows = [["movieId", "title", "genres"], ["1", "Heat (1995)", "Action"], ["20", "X", "War"], ["3", "Y", "Drama"]]
    (tmp_path / "movies.csv").write_text("".join(",".join(row[i] for i in order) + ",\n" for row in rows))
    rows = [["userId", "movieId", "rating", "timestamp"], *([str(u), str(m), "4.5", str(t)] for u, m, t in RATINGS)]
    (tmp_path / "ratings.csv").write_text("".join(",".join(reversed(row)) + "\n" for row in rows))
    found = movielens(tmp_path, core=2).interactions
    assert found.items.texts[found.items.document_index["1"]] == "Heat (1995). Genres: Action."
    assert [found.items.doc_ids[i] for i in found.history(0)] == ["3", "20", "1"]


@pytest.mark.parametrize(
    ("write", "file", "content", "fact"),
    [
        (write_100k, "u.data", "4\t1\t978300760\t7\n", "the rating is '978300760'"),
        (write_100k, "u.item", f"1|{flags(1)}|Heat|01-Jan-1995||x\n", "genre flags"),
        (write_dat, "ratings.dat", "978300760::1::7::4\n", "the rating is '7'"),
        (write_dat, "movies.dat", "1::Comedy|Romance::Heat (1995)\n", "genres 'Heat .1995.'"),
        (write_csv, "movies.csv", "movieId,title,title,genres\n", "two columns 'title'"),
    ],
)
def test_columns_without_names_are_refused_in_another_order(write, file, content, fact, tmp_path):
    write(tmp_path)
    (tmp_path / file).write_text(content)
    assert re.search(f"{file}:1: {fact}", fails(tmp_path))
