"""MovieLens (Harper & Konstan 2015) in each of its layouts, told from the files in the folder.

``ml-100k`` has ``u.data`` and ``u.item``; ``ml-1m`` and ``ml-10m`` have ``ratings.dat`` and ``movies.dat``; ``ml-20m``,
``ml-25m``, ``ml-32m`` and ``ml-latest`` have ``ratings.csv`` and ``movies.csv``. A rating is an event, whatever its
value.
"""

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from genret_jax.data.records import is_present, list_folder, read_lines, require_folder, require_id
from genret_jax.data.sources.events import Event, Ties, collect_events, time_of
from genret_jax.data.sources.importing import Imported, build_histories
from genret_jax.data.sources.item_text import ItemText, item_text
from genret_jax.errors import InputError

_NO_GENRE = "(no genres listed)"
# The flags at the end of a line of u.item, as u.genre names them; the first is "unknown".
_GENRES_100K = (
    "",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def _csv_row(line: str) -> list[str]:
    return next(csv.reader([line]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """One way in which MovieLens was published.

    Attributes:
        ratings: File of user, movie, rating and time.
        movies: File of movie, title, and genres.
        split_rating: Divides a line of ratings into columns.
        split_movie: Divides a line of movies into columns.
        header: Whether the first lines name the columns.
        movie_columns: Least number of columns of a movie.
        genres: Reads the genres from a movie's columns.
    """

    ratings: str
    movies: str
    split_rating: Callable[[str], list[str]]
    split_movie: Callable[[str], list[str]]
    header: bool = False
    movie_columns: int = 3
    genres: Callable[[list[str]], list[str]] = lambda row: row[2].split("|")


def _flagged_genres(row: list[str]) -> list[str]:
    return [genre for genre, flag in zip(_GENRES_100K, row[-len(_GENRES_100K) :], strict=True) if flag == "1"]


_LAYOUTS = (
    _Layout(
        ratings="u.data",
        movies="u.item",
        split_rating=lambda line: line.split("\t"),
        split_movie=lambda line: line.split("|"),
        movie_columns=5 + len(_GENRES_100K),
        genres=_flagged_genres,
    ),
    _Layout(
        ratings="ratings.dat",
        movies="movies.dat",
        split_rating=lambda line: line.split("::"),
        split_movie=lambda line: line.split("::"),
    ),
    _Layout(
        ratings="ratings.csv",
        movies="movies.csv",
        split_rating=lambda line: line.split(","),
        split_movie=_csv_row,
        header=True,
    ),
)


def movielens(folder: Path, *, core: int = 5, ties: Ties = "auto", name: str = "") -> Imported:
    """Read a folder of MovieLens as interactions with movies, whose text is their title and genres.

    Args:
        folder: As unpacked from the archive.
        core: Least number of events of a user and of an item.
        ties: Order of ratings of one user in one second.
        name: What reports call the set; the name of the folder by default.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    layout = _layout_of(folder)
    ratings, movies = folder / layout.ratings, folder / layout.movies
    histories = build_histories(collect_events(_read_ratings(ratings, layout)), source=ratings, core=core, ties=ties)
    texts = _read_movies(movies, layout)
    return histories.with_texts(texts, name=name or folder.resolve().name, files=[movies])


def _layout_of(folder: Path) -> _Layout:
    for layout in _LAYOUTS:
        if is_present(folder / layout.ratings):
            return layout
    expected = " or ".join(f"{layout.ratings} with {layout.movies}" for layout in _LAYOUTS)
    fix = "unpack the archive and give the folder in it"
    require_folder(folder, expected=expected, fix=fix)
    folders = [inner for inner in list_folder(folder) if inner.is_dir()]
    inside = [inner for inner in folders if any(is_present(inner / layout.ratings) for layout in _LAYOUTS)]
    fix = f"give {inside[0]}" if inside else fix
    raise InputError("no ratings of MovieLens here", file=folder, expected=expected, fix=fix)


def _read_rows(
    path: Path, split: Callable[[str], list[str]], least: int, header: bool, encoding: str = "utf-8"
) -> Iterator[tuple[int, list[str]]]:
    lines = read_lines(path, encoding=encoding)
    if header:
        _require_header(next(lines, (1, "")), path)
    for line, text in lines:
        row = split(text)
        if len(row) < least:
            raise InputError(
                f"{len(row)} columns in {text[:60]!r}",
                file=path,
                line=line,
                expected=f"{least} columns as MovieLens has them",
                fix="repair the line, or unpack the archive again",
            )
        yield line, row


def _require_header(first: tuple[int, str], path: Path) -> None:
    if "movieId" not in first[1].split(","):
        raise InputError(
            f"{first[1][:60]!r} as the first line",
            file=path,
            line=first[0],
            expected="a header with the columns userId and movieId, or movieId, title and genres",
            fix="put the header of MovieLens back",
        )


def _read_ratings(path: Path, layout: _Layout) -> Iterator[Event]:
    for line, row in _read_rows(path, layout.split_rating, 4, layout.header):
        user, item = require_id(row[0], "the user", path, line), require_id(row[1], "the movie", path, line)
        yield Event(user, item, time_of(row[3], "the time", path, line))


def _read_movies(path: Path, layout: _Layout) -> dict[str, ItemText]:
    texts: dict[str, ItemText] = {}
    for _, row in _read_rows(path, layout.split_movie, layout.movie_columns, layout.header, _encoding_of(path)):
        genres = [genre for genre in layout.genres(row) if genre != _NO_GENRE]
        texts[row[0]] = item_text(row[1], {"Genres": genres})
    return texts


def _encoding_of(path: Path) -> str:
    """The older sets are in Latin-1, the newer in UTF-8, under the same names; a list of movies is small."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    except OSError:
        pass  # the reader says what is wrong with it
    return "utf-8"
