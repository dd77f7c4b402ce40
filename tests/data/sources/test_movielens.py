"""MovieLens in its layouts."""

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


def test_a_folder_without_ratings_is_told(tmp_path):
    assert "no ratings of MovieLens here; expected u.data with u.item or ratings.dat with movies.dat" in fails(tmp_path)
    assert "the folder is missing" in fails(tmp_path / "nowhere")
    inner = tmp_path / "ml-1m"
    inner.mkdir()
    write_dat(inner)
    assert f"next: give {inner}" in fails(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("u.data", "1\t2\t5\n", "u.data:1: 3 columns in '1\\t2\\t5'; expected 4 columns"),
        ("u.data", "1\t2\t5\tnoon\n", "u.data:1: the time is 'noon'"),
        ("u.data", "\t2\t5\t7\n", "u.data:1: the user is ''"),
        ("u.data", "", "u.data: no events"),
        ("u.item", "1|Heat|01-Jan-1995||x|0|1\n", "u.item:1: 7 columns"),
        ("u.item", "", "u.item: no text for any of the 3 items"),
    ],
)
def test_what_is_wrong_is_told(file, content, message, tmp_path):
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
    assert f"{file}:1: {lines[1]!r} as the first line; expected a header" in fails(tmp_path)
