"""The claims: every run can be configured, corpora hide what they say, and verdicts follow the figures."""

import json

import numpy as np
import pytest
from support.tiny_run import tiny_topics

from genret_jax.claims import ARMS, CLAIMS, Claim, running
from genret_jax.cli import main
from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.data.corpus import read_beir
from genret_jax.errors import CollapsedError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
SMALL = (
    "T5Config.d_model = 32",
    "T5Config.d_kv = 16",
    "T5Config.num_heads = 2",
    "T5Config.d_ff = 32",
    "TrainerConfig.batch_size = 8",
    "TrainerConfig.data_parallel = 1",
    "T5Config.num_encoder_layers = 1",
    "T5Config.num_decoder_layers = 1",
    "VocabularyConfig.size = 300",
)


def test_every_arm_of_a_claim_is_there_and_every_arm_is_used():
    assert {arm for claim in CLAIMS for arm in (claim.better, claim.worse)} == set(ARMS)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_can_be_configured(name):
    arm = ARMS[name]
    macros = {"CODEBOOK": 8, "HALF": 5, "LEARNING": 8, "CORPUS": "c", "RUN": "r", "STEPS": 10, "SEED": 1}
    lines = [f"{macro} = {value!r}" for macro, value in macros.items() if running._uses(arm, macro)]
    _, experiment = experiment_from_gin([arm.file], [*lines, *running._BUDGET, *arm.bindings])
    assert experiment.trainer.steps == 10
    assert experiment.trainer.best_metric is None
    base = name.split("-")[0]
    if name != base and arm.searched_as is None and arm.share == 1:
        assert (arm.bindings, arm.file, arm.generated) != (ARMS[base].bindings, ARMS[base].file, ARMS[base].generated)


def test_documents_without_training_queries():
    corpus = running.with_unseen(tiny_topics(), 0.25)
    trained = {doc_id for grades in corpus.qrels["train"].values() for doc_id in grades}
    hidden = {doc_id for doc_id in tiny_topics().doc_ids[:40] if doc_id not in trained}
    assert len(hidden) == 10
    assert not set(corpus.qrels["train"]) & set(corpus.qrels["unseen"])
    for grades in corpus.qrels["test"].values():
        assert hidden.isdisjoint(grades)
    for grades in corpus.qrels["unseen"].values():
        assert not hidden.isdisjoint(grades)
    assert set(corpus.queries) == {query for split in corpus.qrels.values() for query in split}


def test_part_of_a_corpus_has_the_queries_of_its_documents():
    whole = tiny_topics()
    part = running._part(whole, 20)
    assert len(part) == 20
    for split, qrels in part.qrels.items():
        assert {query: dict(grades) for query, grades in qrels.items()} == {
            query: grades for query, grades in whole.qrels[split].items() if set(grades) <= set(part.doc_ids)
        }
    assert part.fingerprint == running._part(whole, 20).fingerprint


@pytest.mark.parametrize(
    ("better", "worse", "margin", "verdict"),
    [
        ([0.50, 0.52, 0.51], [0.30, 0.31, 0.33], 0.0, "holds"),
        ([0.30, 0.31, 0.33], [0.50, 0.52, 0.51], 0.0, "does not hold"),
        ([0.50, 0.30, 0.40], [0.40, 0.40, 0.30], 0.0, "undecided"),
        ([0.40, 0.41, 0.40], [0.42, 0.42, 0.42], -0.1, "holds"),
    ],
)
def test_verdicts(better, worse, margin, verdict):
    claim = Claim(system="X", text="x", paper="1", better="a", worse="b", margin=margin)
    arms = {name: [{"test/mrr@10": value} for value in values] for name, values in (("a", better), ("b", worse))}
    figures = running._decided(claim, arms)["figures"]
    assert figures["verdict"] == verdict
    differences = np.subtract(better, worse)
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert figures["half_interval"] == pytest.approx(4.3027 * differences.std(ddof=1) / 3**0.5, rel=1e-4)


def test_claims_end_to_end_and_again(tiny_corpus, tmp_path, capsys, monkeypatch):
    """One claim of two arms: one is trained with generated queries, the other is the same network, searched freely."""
    chosen = [claim for claim in CLAIMS if claim.worse == "nci-unconstrained"]
    monkeypatch.setattr("genret_jax.claims.CLAIMS", tuple(chosen))
    monkeypatch.setattr(running, "_QUERIES_A_DOCUMENT", 2)
    command = ["claims", "--corpus", str(tiny_corpus), "--out", str(tmp_path / "out"), "--steps", "4"]
    command += ["--seeds", "0", "1"]
    command += [part for line in SMALL for part in ("--binding", line)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "out" / "claims.md").read_text() == shown
    assert len(shown.splitlines()) == 2 + len(chosen)
    found = json.loads((tmp_path / "out" / "claims.json").read_text())
    for seeds in found["arms"].values():
        assert len(seeds) == 2
        splits = {f"{before}{split}" for before in ("", "start/") for split in ("test", "unseen", "documents")}
        metrics = {"hits@1", "hits@10", "mrr@10"}
        assert set(seeds[0]) == {f"{split}/{metric}" for split in splits for metric in metrics}
    assert read_beir(tmp_path / "out" / "corpora" / "generated-1").generated_queries
    # Without a constraint some of what is written is no docid; nothing is found that is not found with one.
    free, bound = (found["arms"][name][0]["documents/hits@10"] for name in ("nci-unconstrained", "nci"))
    assert free <= bound + 1e-9

    monkeypatch.setattr(running, "train_run", None)  # nothing is trained again
    assert main(command) == 0
    assert capsys.readouterr().out == shown
    budget = running.Budget(steps=5, learning=200, seeds=(0, 1))
    with pytest.raises(InputError, match=r"the results of nci belong to another budget"):
        running.show_claims(read_beir(tiny_corpus), tmp_path / "out", budget, claims=chosen, bindings=SMALL)


def test_what_cannot_be_asked(tiny_corpus, tmp_path, capsys):
    common = ["claims", "--corpus", str(tiny_corpus), "--out", str(tmp_path / "out")]
    for options, message in (
        (["--only", "TIGER"], "no claims of 'tiger'; expected one of DSI, NCI, GenRet"),
        (["--seeds", "0"], "1 seed; expected at least 2"),
        (["--steps", "0"], "--steps 0; expected at least 2"),
    ):
        assert main([*common, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    bare = {**vars(tiny_topics()), "qrels": {}, "queries": {}}
    budget = running.Budget(steps=4, learning=8, seeds=(0, 1))
    with pytest.raises(InputError, match="no queries in the split 'train'"):
        running.show_claims(type(tiny_topics())(**bare), tmp_path / "out", budget)


def test_codebooks_grow_with_the_corpus():
    assert running._codebook(41) == 8  # not more than one code for three documents
    assert running._codebook(240) == 64
    assert running._codebook(13_447) == 512  # as in the paper


def test_what_has_collapsed_finds_nothing(tiny_corpus, tmp_path, monkeypatch):
    def collapsing(experiment, run):
        raise CollapsedError(f"the codebook of level 1 has collapsed with seed {experiment.docid_seed}")

    monkeypatch.setattr(running, "train_run", collapsing)
    claim = next(claim for claim in CLAIMS if claim.worse == "genret-unbalanced")
    budget = running.Budget(steps=4, learning=8, seeds=(0, 1))
    found = running.show_claims(read_beir(tiny_corpus), tmp_path / "out", budget, claims=[claim])
    figures = found["claims"][0]["figures"]
    assert (figures["better"], figures["worse"], figures["collapsed"]) == ([0.0, 0.0], [0.0, 0.0], 4)
    assert running.table(found).splitlines()[-1].endswith("| +0.0 ±0.0 (4 collapsed) | undecided |")
