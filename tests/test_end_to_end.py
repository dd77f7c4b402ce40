"""From a corpus to ranked documents in every way the parts may be put together, and without what is optional."""

import dataclasses
import io
import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from support.tiny_model import tiny_t5
from support.tiny_run import tiny_experiment, tiny_topics, word, write_tiny_corpus

from genret_jax.config.experiment import PretrainedStart, VocabularyConfig
from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.config.record import record_text
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docids import NaiveStringDocids, ResidualKMeans
from genret_jax.errors import InputError
from genret_jax.models import T5
from genret_jax.models.convert.huggingface import save_safetensors
from genret_jax.retriever import Retriever
from genret_jax.run import prepare, train_run
from genret_jax.training import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
T5_HEAD = {"head": "vocabulary", "encoder_final_norm": True}
OPTIONAL = ["tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "torch", "transformers"]
OPTIONAL += ["bm25s", "Stemmer", "faiss", "matplotlib", "sentence_transformers"]
BYTES = VocabularyConfig(kind="bytes", extra_ids=30)


def check_search(retriever):
    """Every document is found once, and the docids share all the probability that a wide beam can see."""
    results = retriever.search(word(2, 14), k=64, beam=64)
    assert sorted(result.doc_id for result in results) == sorted(retriever.run.corpus.doc_ids)
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(-100 < score < 0 for score in scores)


@pytest.mark.parametrize(
    ("codec", "objective", "docids"),
    [
        ("per_level", "targets_to_inputs", NaiveStringDocids()),
        ("shared", "bidirectional", ResidualKMeans(levels=2, codebook=8)),
        ("text", "span_corruption", NaiveStringDocids()),
    ],
)
def test_the_vocabulary_head_learns_every_objective_in_every_codec(codec, objective, docids, tmp_path):
    """The corpus of the last one has no training queries, so pseudo-queries take their place."""
    corpus = tiny_topics()
    if codec == "text":
        corpus = dataclasses.replace(corpus, qrels={"test": corpus.qrels["test"]})
    experiment = tiny_experiment(
        write_tiny_corpus(tmp_path / "corpus", corpus),
        codec=codec,
        docids=docids,
        vocabulary=BYTES,
        sampler=SamplerConfig(objective=objective, indexing_rate=60.0, append_eos=True),
        start=None,
        model=T5_HEAD,
        trainer={"steps": 3, "log_every": 1, "evaluate_every": None, "batch_size": 8, "best_metric": None},
        hold_out=0.0,
        z_loss=1e-4,
        label_smoothing=0.1,
    )
    run = train_run(experiment, tmp_path / "run")
    losses = [record["loss"] for record in read_metrics(tmp_path / "run") if record["kind"] == "train"]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert run.model.decoder_vocab_size is None, "T5's one vocabulary for text and docids"
    assert run.encoded.tokens.max() < run.model.vocab_size
    first_docid_token = run.encoded.tokens[run.encoded.tokens > 1].min()
    assert (first_docid_token < run.vocabulary.size) == (codec == "text")
    check_search(Retriever.load(tmp_path / "run"))


def test_public_weights_are_a_start(tiny_corpus, tmp_path):
    config = tiny_t5(vocab_size=512, activations=("relu",), tie_embeddings=True, scale_decoder_outputs=True)
    token = jnp.zeros((1, 1), jnp.int32)
    weights = jax.tree.map(np.asarray, jax.jit(T5(config).init)(jax.random.key(5), token, token)["params"])
    save_safetensors(tmp_path / "t5", weights, config)
    experiment = tiny_experiment(
        tiny_corpus,
        codec="shared",
        docids=NaiveStringDocids(),
        vocabulary=dataclasses.replace(BYTES, normalization="none"),
        sampler=SamplerConfig(append_eos=True),
        start=PretrainedStart(path=str(tmp_path / "t5")),
        model={**dataclasses.asdict(config), "dropout_rate": 0.1, "vocab_size": 512},
    )
    run = prepare(experiment, tmp_path / "run", log=lambda line: None)
    params = run.start_params()
    assert run.model.vocab_size == 512, "rows of the checkpoint beyond its own tokens serve docids"
    jax.tree.map(np.testing.assert_array_equal, params, weights)
    check_search(Retriever(run, params))

    for model, message in (
        ({"d_ff": 48}, "d_ff 48 instead of 32"),
        ({"activations": ("gelu",)}, "activations ('gelu',)"),
    ):
        network = {**dataclasses.asdict(experiment.model), **model}
        with pytest.raises(InputError) as error:
            train_run(dataclasses.replace(experiment, model=tiny_t5(**network)), tmp_path / "other")
        assert f"the checkpoint is of another network: T5Config.{message}" in str(error.value)
        assert not (tmp_path / "other").exists()


def test_the_published_recipe_runs_from_a_folder_of_public_weights(tiny_corpus, tmp_path):
    """``runs/dsi_t5.gin`` as shipped, with a checkpoint folder as Hugging Face lays it out, of a tiny network."""
    shape = {"vocab_size": 512, "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32}
    shape |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    token = jnp.zeros((1, 1), jnp.int32)
    weights = jax.jit(T5(tiny_t5(**shape)).init)(jax.random.key(5), token, token)["params"]
    save_safetensors(tmp_path / "t5", jax.tree.map(np.asarray, weights), tiny_t5(**shape))
    pieces = io.BytesIO()
    texts = [tiny_topics().document_text(index) for index in range(40)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=pieces, vocab_size=120, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    )
    (tmp_path / "t5" / "spiece.model").write_bytes(pieces.getvalue())
    bindings = [f"CORPUS='{tiny_corpus}'", f"RUN='{tmp_path / 'run'}'", f"T5='{tmp_path / 't5'}'", "STEPS=4"]
    bindings += [f"T5Config.{name}={size}" for name, size in shape.items()]
    bindings += ["TrainerConfig.batch_size=8", "TrainerConfig.log_every=2", "TrainerConfig.data_parallel=1"]
    run = train_run(experiment_from_gin(["runs/dsi_t5.gin"], bindings)[1], tmp_path / "run")
    start = run.start_params()
    np.testing.assert_array_equal(
        start["encoder"]["layers_0"]["mlp"]["wo"]["kernel"], weights["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    )
    assert np.isfinite([record["loss"] for record in read_metrics(tmp_path / "run") if record["kind"] == "train"]).all()
    check_search(Retriever.load(tmp_path / "run"))


def test_without_tensorflow_and_all_that_is_optional(tiny_corpus, tmp_path):
    """The t5x way to train, then evaluation and search, in a process that cannot import any of it."""
    gin_file = tmp_path / "tiny.gin"
    gin_file.write_text(record_text("elsewhere", tiny_experiment(tiny_corpus, trainer={"checkpoint_every": None})))
    run, report = tmp_path / "run", tmp_path / "report"
    script = textwrap.dedent(f"""
        import runpy, sys
        from importlib.machinery import PathFinder
        class Hiding(PathFinder):  # None in sys.modules would trouble those who only ask whether it is there
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name.split(".")[0] in {OPTIONAL!r} else PathFinder.find_spec(name, path, target)
        sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
        sys.argv = ["train", "--gin_file={gin_file}", "--gin.RUN='{run}'", "--gin.STEPS=3",
                    "--gin.TrainerConfig.evaluate_every=None"]
        try:
            runpy.run_module("genret_jax.train", run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, end.code
        from genret_jax.cli import main
        assert main(["evaluate", "--run={run}", "--out={report}", "--no-bm25", "--no-untrained"]) == 0
        assert main(["search", "--run={run}", "--json", "-k=2", "{word(3, 14)} {word(3, 15)}"]) == 0
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["results"][0]["doc_id"] == "d16"
    assert "no picture of run: curves need matplotlib" in done.stderr
    assert (report / "report.json").is_file()
    assert "STEPS = 3\n" in (run / "config.gin").read_text()
    assert "EvaluationConfig.beam = 10\n" in (run / "config.gin").read_text()
