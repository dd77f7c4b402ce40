"""genret encoder: what get and show print."""

import json

import pytest
from support.encoder_hub import COMMIT, SHA256, encoder_hub

from genret_jax.cli import main
from genret_jax.models.encoders import hub as hub_module


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(hub_module, "_SHORTEST_PAUSE", 0.001)
    with encoder_hub() as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.address)
        yield serving


def test_get_shows_the_folder_the_licence_the_source_and_the_hash(hub, tmp_path, capsys):
    folder = tmp_path / "cache" / "genret" / "encoders" / "org--tiny"
    assert main(["encoder", "get", "org/tiny"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"asking {hub.address}/org/tiny\n"
    date = json.loads((folder / "encoder.json").read_text())["date"]
    assert printed.out == (
        f"{folder}\n"
        f"  licence     apache-2.0\n"
        f"  source      {hub.address}/org/tiny, {COMMIT}, {date}\n"
        f"  sha256      {SHA256} (as in {hub.address}/org/tiny)\n"
        f"\n"
        f"show it: genret encoder show org/tiny\n"
        f"use it:  genret docids build --vectors encoder:org/tiny --corpus DIR --out DIR\n"
    )
    assert main(["encoder", "get", "org/tiny"]) == 0
    again = capsys.readouterr()
    assert again.err == f"{folder} is already there; nothing is downloaded\n"
    assert again.out == printed.out


def test_a_hash_without_anything_to_compare_it_with_is_said_to_be(hub, tmp_path, capsys):
    hub.linked = None
    assert main(["encoder", "get", "org/tiny", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"  sha256      {SHA256} (recorded, with nothing to compare it with)\n" in printed
    assert f"genret encoder show {tmp_path / 'out'}\n" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "all-mpnet-base"], "did you mean 'all-mpnet-base-v2'?"),
        (["get", "org/missing"], "it has no config.json; next: check the name org/missing, or give another encoder"),
        (["show", "all-MiniLM-L6-v2"], "next: run 'genret encoder get all-MiniLM-L6-v2'"),
        (["show", "no/folder"], "no/folder is neither a folder nor a downloaded encoder"),
    ],
)
def test_what_goes_wrong_is_one_line(hub, arguments, message, capsys):
    hub.files.clear()
    assert main(["encoder", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if not line.startswith("asking ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_help_lists_the_known_encoders(capsys):
    assert main(["encoder", "get", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "  all-MiniLM-L6-v2   BERT, 6 layers; small and fast, English; width 384, apache-2.0, wheel\n" in printed
