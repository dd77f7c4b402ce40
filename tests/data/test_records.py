"""Lines of files that are packed, cut off, damaged, or in another encoding."""

import gzip

import pytest

from genret_jax.data import records
from genret_jax.data.records import read_json_lines, read_lines
from genret_jax.errors import InputError

LINES = "".join(f'{{"_id": "d{number}", "text": "ünsorted {number * 7919 % 1000}"}}\n' for number in range(2000))


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "lines.jsonl"  # no suffix tells that it is packed
    path.write_bytes(gzip.compress(LINES.encode()))
    return path


def fails(path):
    with pytest.raises(InputError) as caught:
        list(read_lines(path))
    assert caught.value.file == path
    return caught.value


def test_a_packed_file_reads_as_the_same_lines(packed, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text(LINES, encoding="utf-8")
    assert list(read_lines(packed)) == list(read_lines(plain))
    assert [record for _, record in read_json_lines(packed)] == [record for _, record in read_json_lines(plain)]


def test_a_file_cut_off_is_reported_with_the_line_where_it_ends(packed):
    packed.write_bytes(packed.read_bytes()[:-2000])
    error = fails(packed)
    assert error.found == "the gzip file ends early"
    assert 1 < error.line < 2000


def test_a_file_cut_off_in_its_header(packed):
    packed.write_bytes(packed.read_bytes()[:6])
    assert fails(packed).found == "the gzip file ends early"


@pytest.mark.parametrize("place", [slice(10, 20), slice(-8, -4)], ids=["data", "checksum"])
def test_damaged_bytes_are_reported(packed, place):
    content = bytearray(packed.read_bytes())
    content[place] = b"\xff" * len(content[place])
    packed.write_bytes(content)
    assert fails(packed).found.startswith("damaged gzip data")


def test_a_large_packed_file_shows_progress_in_bytes_of_the_file(packed, monkeypatch):
    seen = []

    class Bar:
        n = 0

        def __init__(self, **options):
            seen.append(options["total"])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append(self.n)

        def update(self, count):
            self.n += count

    monkeypatch.setattr(records, "tqdm", Bar)
    list(read_lines(packed))
    size = packed.stat().st_size
    assert seen == [size, size]


def test_another_encoding_is_read_when_asked_for(tmp_path):
    path = tmp_path / "movies.dat"
    path.write_bytes("1::Café::Drama\r\n".encode("latin-1"))
    assert list(read_lines(path, encoding="latin-1")) == [(1, "1::Café::Drama")]
    assert "byte 0xe9 at position 7 of the line is not UTF-8" in fails(path).found


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_lines(tmp_path / "empty")) == []
    (tmp_path / "packed").write_bytes(gzip.compress(b""))
    assert list(read_lines(tmp_path / "packed")) == []
