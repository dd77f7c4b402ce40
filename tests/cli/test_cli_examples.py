"""``genret examples`` from a folder of text to examples that people can read."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from support.tiny_store import tiny_corpus, tiny_table

from genret_jax.cli import main
from genret_jax.data.corpus import write_beir
from genret_jax.data.examples.store import ExampleStore

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of a corpus and of its docids."""
    folder = tmp_path_factory.mktemp("sources")
    corpus = tiny_corpus()
    write_beir(corpus, folder / "corpus")
    tiny_table(corpus).save(folder / "docids")
    return str(folder / "corpus"), str(folder / "docids")


@pytest.fixture(scope="module")
def store(sources: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("store") / "examples")
    assert build(sources, out, "--vocabulary-size", "70") == 0
    return out


def build(sources: tuple[str, str], out: str | Path, *options: str) -> int:
    corpus, docids = sources
    return main(["examples", "build", "--corpus", corpus, "--docids", docids, "--out", str(out), *options])


def test_build_says_what_it_made(sources: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "examples"
    assert build(sources, out) == 0
    printed = capsys.readouterr().out
    assert "5 documents, 4 with text" in printed
    assert "queries     5; pairs: test 3, train 5; generated: 2" in printed
    assert "sentencepiece" in printed
    assert f"genret examples show {out}" in printed
    store = ExampleStore.open(out)
    assert store.vocabulary.normalization == "words"
    assert store.shares_vocabulary
    assert store.manifest["extra_ids"] == 100
    assert store.manifest["codec"]["eos"] == "always"


def test_other_vocabularies(sources: tuple[str, str], store: str, tmp_path: Path) -> None:
    assert build(sources, tmp_path / "bytes", "--vocabulary", "bytes", "--docid-tokens", "text") == 0
    as_bytes = ExampleStore.open(tmp_path / "bytes")
    assert (as_bytes.vocabulary.kind, as_bytes.vocabulary.normalization) == ("bytes", "none")
    assert as_bytes.vocabulary.decode(as_bytes.array("docid_tokens")[1]) == "10"
    model = str(Path(store) / "vocabulary" / "sentencepiece.model")
    assert build(sources, tmp_path / "model", "--vocabulary", model, "--normalization", "words") == 0
    assert (
        ExampleStore.open(tmp_path / "model").vocabulary.fingerprint == ExampleStore.open(store).vocabulary.fingerprint
    )
    assert build(sources, tmp_path / "short", "--vocabulary", "bytes", "--document-words", "2") == 0
    assert ExampleStore.open(tmp_path / "short").array("document_offsets").tolist() == [0, 2, 4, 4, 6, 8]


def test_vocabularies_never_see_test_queries(sources: tuple[str, str], tmp_path: Path) -> None:
    corpus = tiny_corpus()
    other = dataclasses.replace(corpus, queries=corpus.queries | {"q5": "zebras and quaggas"})
    write_beir(other, tmp_path / "corpus")
    assert build((str(tmp_path / "corpus"), sources[1]), tmp_path / "a", "--vocabulary-size", "70") == 0
    assert build(sources, tmp_path / "b", "--vocabulary-size", "70") == 0
    stores = [ExampleStore.open(tmp_path / name) for name in "ab"]
    assert stores[0].vocabulary.fingerprint == stores[1].vocabulary.fingerprint


def test_show_prints_examples_with_their_documents(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "show", store, "--count", "4", "--task", "retrieval"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("retrieval")]
    assert len(shown) == 4
    assert all(line.split()[2] in ("cat", "dog") for line in shown)
    decoded = [line.split() for line in lines if line.startswith("  decoder")]
    assert all(docid in ("<0>", "<1-0>") for _, docid in decoded)
    assert main(["examples", "show", store, "--count", "0"]) == 0


def test_show_the_other_objectives(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*options: str) -> str:
        assert main(["examples", "show", store, "--task", "indexing", *options]) == 0
        return capsys.readouterr().out

    assert "<extra_id_0>" in printed("--objective", "span_corruption")
    assert "  encoder     <1-0>\n" in printed("--objective", "targets_to_inputs", "--count", "30")
    assert printed("--representation", "set") != printed("--representation", "direct")
    assert printed("--seed", "1") != printed("--seed", "2")


def test_show_through_seqio(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("seqio", reason="seqio, of the extra with that name, is not installed")
    assert main(["examples", "show", store, "--count", "2", "--seqio"]) == 0
    printed = capsys.readouterr().out
    assert "mixture 'examples' of 3 seqio tasks" in printed
    assert "task examples_pseudo_queries  rate 60 (60%)  splits train" in printed
    assert "task examples_retrieval  rate 25 (25%)  splits test, train" in printed
    assert "feature targets: int32, vocabulary of" in printed
    assert printed.count("  inputs   ") == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vocabulary", "sentencpiece"), "did you mean 'sentencepiece'"),
        (("--vocabulary", "missing.model"), "missing.model: cannot be read"),
        (("--vocabulary-size", "10"), "no vocabulary of 10 pieces"),
        (("--vocabulary-size", "0"), "--vocabulary-size 0; expected a number of at least 1"),
        (("--extra-ids", "-1"), "--extra-ids -1"),
        (("--document-words", "0"), "--document-words 0"),
    ],
)
def test_wrong_options(
    options: tuple[str, ...],
    message: str,
    sources: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build(sources, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_docids_of_another_corpus(sources: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (Path(sources[0]) / "corpus.jsonl").read_text().splitlines()
    (tmp_path / "corpus").mkdir()
    changed = [json.dumps(json.loads(line) | {"text": "other text"}) for line in lines]
    (tmp_path / "corpus" / "corpus.jsonl").write_text("\n".join(changed))
    assert build((str(tmp_path / "corpus"), sources[1]), tmp_path / "out") == 2
    assert "docids of another corpus" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_and_a_folder_that_is_no_store(
    sources: tuple[str, str], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(sources, store) == 2
    assert "the output already exists" in capsys.readouterr().err
    assert main(["examples", "show", sources[0]]) == 2
    assert "no example store here" in capsys.readouterr().err
    assert main(["examples", "show", store, "--count", "-1"]) == 2


def test_seqio_missing_is_explained(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "seqio", None)
    assert main(["examples", "show", store, "--seqio"]) == 2
    assert "pip install 'genret_jax[seqio]'" in capsys.readouterr().err


def test_show_reads_a_run_folder_and_prints_no_control_characters(
    sources: tuple[str, str], store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "examples").symlink_to(store)
    assert main(["examples", "show", store]) == 0
    of_store = capsys.readouterr().out
    assert main(["examples", "show", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == of_store
    corpus = tiny_corpus()
    corpus = dataclasses.replace(corpus, titles=("\x1b]0;owned\x07Cats", *corpus.titles[1:]))
    write_beir(corpus, tmp_path / "corpus")
    table = tiny_table(corpus)
    table.save(tmp_path / "docids")
    assert build((str(tmp_path / "corpus"), str(tmp_path / "docids")), tmp_path / "out", "--vocabulary", "bytes") == 0
    assert main(["examples", "show", str(tmp_path / "out"), "--count", "20"]) == 0
    assert main(["corpus", "show", str(tmp_path / "corpus"), "--samples", "9"]) == 0
    printed = capsys.readouterr().out
    assert "owned" in printed
    assert not set(printed) & {"\x1b", "\x07"}


def test_help_says_whom_build_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "build", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "t5x" in printed
    assert "'genret train' does not read it" in printed
