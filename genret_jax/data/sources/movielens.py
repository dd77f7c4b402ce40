"""MovieLens (Harper & Konstan 2015) in each of its layouts, recognised by the files in the folder.

``ml-100k`` has ``u.data`` and ``u.item``; ``ml-1m`` and ``ml-10m`` have ``ratings.dat`` and ``movies.dat``; ``ml-20m``,
``ml-25m``, ``ml-32m`` and ``ml-latest`` have ``ratings.csv`` and ``movies.csv``. A rating is an event, whatever its
value.

The columns of the CSV files are found by the names in the header, in any order. The other files have no header, so
their columns are read by position, and ratings and genres are checked: a file in another order is refused.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from genret_jax.data.records import Place, is_present, list_folder, read_table, require_folder, select_columns
from genret_jax.data.sources.events import Ties, collect_events, events_of_rows
from genret_jax.data.sources.importing import Imported, ItemText, build_histories, item_text
from genret_jax.errors import InputError

_NO_GENRE = "(no genres listed)"
# The flags at the end of a line of u.item have the order of u.genre.
_FLAGS_100K = """
unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical Mystery
Romance Sci-Fi Thriller War Western
"""
_GENRES_100K = tuple(_FLAGS_100K.split())
_GENRES = {*_GENRES_100K, "Children", "IMAX", _NO_GENRE, ""}
_RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_RATINGS = {f"{half / 2:g}" for half in range(1, 11)} | {f"{whole}.0" for whole in range(1, 6)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """One way in which MovieLens was published.

    Attributes:
        ratings: File of ratings.
        movies: File of movies.
        separators: Text between two columns of ``ratings``, and of ``movies``.
        movie_columns: Names of the columns of ``movies``, in their order if the file has no header.
        header: Whether the first line names the columns, which may then be in any order, with others among them.
    """

    ratings: str
    movies: str
    separators: tuple[str, str]
    movie_columns: tuple[str, ...] = ("movieId", "title", "genres")
    header: bool = False


_LAYOUTS = (
    _Layout(
        ratings="u.data",
        movies="u.item",
        separators=("\t", "|"),
        movie_columns=("movieId", "title", "date", "video date", "URL", *_GENRES_100K),
    ),
    _Layout(ratings="ratings.dat", movies="movies.dat", separators=("::", "::")),
    _Layout(ratings="ratings.csv", movies="movies.csv", separators=(",", ","), header=True),
)


def movielens(folder: Path, *, core: int = 5, ties: Ties = "auto") -> Imported:
    """Read a folder of MovieLens as interactions with movies, whose text is their title and genres.

    Args:
        folder: The unpacked archive.
        core: Least number of events of a user and of an item.
        ties: Order of ratings of one user in one second.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    layout = _layout_of(folder)
    ratings, movies = folder / layout.ratings, folder / layout.movies
    events = collect_events(events_of_rows(_read_ratings(ratings, layout), ("userId", "movieId", "timestamp")))
    histories = build_histories(events, source=ratings, core=core, ties=ties)
    return histories.with_texts(_read_movies(movies, layout), name=folder.resolve().name, files=[movies])


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


def _read_ratings(path: Path, layout: _Layout) -> Iterator[tuple[Place, Sequence[str]]]:
    """Yield user, movie and time of each rating, with its place."""
    for place, (user, item, rating, time) in _read_rows(path, layout.separators[0], _RATING_COLUMNS, layout):
        if rating not in _RATINGS:
            raise _another_order(place, f"the rating is {rating[:40]!r}", "0.5 to 5")
        yield place, (user, item, time)


def _read_movies(path: Path, layout: _Layout) -> dict[str, ItemText]:
    texts: dict[str, ItemText] = {}
    for place, row in _read_rows(path, layout.separators[1], layout.movie_columns, layout, _encoding_of(path)):
        if layout.movies == "u.item":
            if not {"0", "1"}.issuperset(row[5:]):
                raise _another_order(place, f"genre flags {' '.join(row[5:])[:60]!r}", "19 flags, 0 or 1")
            genres = [genre for genre, flag in zip(_GENRES_100K[1:], row[6:], strict=True) if flag == "1"]
        else:
            genres = row[2].split("|")
            if not layout.header and not _GENRES.issuperset(genres):
                raise _another_order(place, f"genres {row[2][:60]!r}", "genres of MovieLens such as 'Drama|War'")
        texts[row[0]] = item_text(row[1], {"Genres": [genre for genre in genres if genre != _NO_GENRE]})
    return texts


def _read_rows(
    path: Path, separator: str, columns: tuple[str, ...], layout: _Layout, encoding: str = "utf-8"
) -> Iterator[tuple[Place, list[str]]]:
    """Yield the cells of these columns for each row; a header may have other columns among them."""
    rows = read_table(path, separator, names=() if layout.header else columns, encoding=encoding)
    return select_columns(rows, columns)


def _another_order(place: Place, found: str, expected: str) -> InputError:
    return place.error(found, expected=expected, fix="put the columns in MovieLens's order")


def _encoding_of(path: Path) -> str:
    """Return Latin-1 for the older sets and UTF-8 for the newer ones, which have the same names."""
    try:
        path.read_bytes().decode("utf-8")  # a list of movies is small
    except UnicodeDecodeError:
        return "latin-1"
    except OSError:
        pass  # read_lines reports it
    return "utf-8"
