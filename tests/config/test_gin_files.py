"""Gin at the edge: the shipped files, and every way to be wrong in one's own."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from support.tiny_run import tiny_experiment

from genret_jax.config.experiment import Experiment, PretrainedStart, VocabularyConfig
from genret_jax.config.gin_files import (
    bindings_of,
    command_line_binding,
    experiment_from_gin,
    recipe_experiment,
    recipe_file,
    recipes,
    require_set_once,
)
from genret_jax.config.gin_text import from_bindings, gin_configs_folder, read_record
from genret_jax.config.record import DERIVED, record_text, to_bindings
from genret_jax.docids import DocidCodec
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.network import T5
from genret_jax.problems.sizing import item_network
from genret_jax.training import Constant

SHIPPED = gin_configs_folder()
RUNNABLE = sorted(
    str(file.relative_to(SHIPPED)) for part in ("runs", "experiments") for file in SHIPPED.glob(f"{part}/*.gin")
)
MODELS = sorted(str(file.relative_to(SHIPPED)) for file in SHIPPED.glob("models/*.gin"))
ABLATIONS = sorted(str(file.relative_to(SHIPPED)) for file in SHIPPED.glob("ablations/*.gin"))
BASE = "runs/dsi_semantic_from_scratch.gin"
PATHS = ["CORPUS = 'corpus'", "RUN = 'run'"]

pytestmark = pytest.mark.usefixtures("annotations_unchecked")


def refused(files, bindings=PATHS) -> InputError:
    with pytest.raises(InputError) as caught:
        experiment_from_gin(files, bindings)
    assert "\n" not in str(caught.value)
    return caught.value


def paths(file):
    """The macros that a shipped run asks for."""
    return [*PATHS, *(["T5 = 't5'"] if "--gin.T5=" in (SHIPPED / file).read_text() else [])]


def written(tmp_path, text):
    file = tmp_path / "mine.gin"
    file.write_text(text)
    return str(file)


def test_no_shipped_file_is_left_out_here():
    assert {str(file.relative_to(SHIPPED).parent) for file in SHIPPED.rglob("*.gin")} == {
        "runs",
        "experiments",
        "models",
        "ablations",
        "t5x",  # parsed by t5x itself, in tests/training/test_t5x_gin.py
        "t5x/models",
    }
    assert BASE in RUNNABLE
    assert "models/from_scratch.gin" in MODELS


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("file", ABLATIONS)
def test_every_ablation_changes_a_recipe(number, file):
    of_documents = file.startswith("ablations/documents_")
    recipe = (("codes_pretrained", "autoregressive_pretrained") if of_documents else ("tiger", "tiger_paper"))[number]
    recipe = f"runs/{recipe}.gin"
    plain, changed = (experiment_from_gin(files, PATHS)[1] for files in ([recipe], [recipe, file]))
    same = {
        "runs/tiger.gin": {"ablations/ids_residual_kmeans.gin", "ablations/no_user_token.gin"},
        "runs/tiger_paper.gin": {"ablations/ids_rq_vae.gin"},
    }
    assert (plain == changed) == (file in same.get(recipe, ()))


def test_tigers_network_has_as_many_parameters_as_its_file_says():
    """Three codes of 256 and as many that separate, of 12,101 items."""
    experiment = experiment_from_gin(["runs/tiger_paper.gin"], PATHS)[1]
    model = item_network(experiment, DocidCodec(first_token=2, level_sizes=(256,) * 4), 0, 4)
    token = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(T5(model).init, jax.random.key(0), token, token, token)["params"]
    millions = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
    assert f"it has {millions:.1f} million parameters" in (SHIPPED / "runs/items.gin").read_text()


@pytest.mark.parametrize("file", RUNNABLE)
def test_every_shipped_run_gives_an_experiment(file):
    run, experiment = experiment_from_gin([file], [*paths(file), "STEPS = 7", "SEED = 3"])
    assert (run, experiment.corpus, experiment.trainer.steps, experiment.seed) == ("run", "corpus", 7, 3)
    assert experiment.model.vocab_size > 0


@pytest.mark.parametrize("file", MODELS)
def test_every_shipped_model_gives_a_network(file, tmp_path):
    wrapper = written(
        tmp_path,
        f"include '{file}'\ntrain.run = 'r'\ntrain.experiment = @Experiment()\nExperiment.corpus = 'c'\n"
        "Experiment.model = @T5Config()\nExperiment.trainer = @TrainerConfig()\nTrainerConfig.steps = 1\n"
        "TrainerConfig.batch_size = 8\n",
    )
    _, experiment = experiment_from_gin([wrapper])
    assert isinstance(experiment.model, T5Config)
    assert isinstance(experiment.model.activations, tuple)
    assert hash(experiment.model) == hash(experiment_from_gin([wrapper])[1].model)


@pytest.mark.parametrize(
    ("line", "found", "fix"),
    [
        ("T5Confg.d_model = 64", "unknown gin name 'T5Confg'", "did you mean 'T5Config'?"),
        ("T5Config.d_modle = 64", "unknown gin name 'T5Config.d_modle'", "did you mean 'd_model'?"),
        ("Experiment.docids = @AtomicDocid()", "unknown gin name 'AtomicDocid'", "did you mean 'AtomicDocids'?"),
        ("Experiment.model = (", "gin cannot read this", "correct the gin file"),
        ("T5Config.d_model = abc", "gin cannot read this", "correct the gin file"),
        (
            "TrainerConfig.steps = 10\nT5Config.d_ff = 8\nTrainerConfig.steps = 20",
            "bound twice (first on line 3)",
            "keep one",
        ),
        ("include 'models/from_scrach.gin'", "no such gin file", "did you mean 'models/from_scratch.gin'?"),
        ("NAME = 3", "the gin macro 'NAME' is set but nothing uses it", "the files use"),
        ("T5Config.d_model = %WIDHT", "the gin macro '%WIDHT' has no value", "write WIDHT = ..."),
        ("TrainerConfig.steps = 'many'", "TrainerConfig.steps is 'many'", "change TrainerConfig.steps"),
        ("T5Config.head = 'prefixed'", "T5Config.head is 'prefixed'", "change T5Config.head"),
        ("Experiment.start = @LsaStart", "Experiment.start is <class", "change Experiment.start"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(tmp_path, line, found, fix):
    file = written(tmp_path, f"include '{BASE}'\n\n{line}\n")
    error = refused([file])
    assert found in error.found
    assert fix in str(error.fix)
    if "has no value" not in found:
        assert str(error.file) == file
        assert error.line in ((None,) if line.endswith("(") else (3, 4, 5))


def test_what_a_file_leaves_open_is_asked_for_by_its_macro():
    error = refused(["runs/dsi_t5.gin"])
    assert error.found in ("VocabularyConfig.path is None", "PretrainedStart.path is None")
    assert error.fix == "set --gin.T5=VALUE"
    assert str(error.file).endswith("dsi_t5.gin")


def test_a_macro_of_an_included_file_may_lose_its_use(tmp_path):
    file = written(tmp_path, f"include '{BASE}'\nTrainerConfig.steps = 5\n")
    assert experiment_from_gin([file], PATHS)[1].trainer.steps == 5
    assert "'STEPS' is set but nothing uses it" in str(refused([file], [*PATHS, "STEPS = 6"]))


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["STEP = 10"], "the gin macro 'STEP' is set but nothing uses it; next: did you mean 'STEPS'?"),
        (["steps = 10"], "the gin macro 'steps' is set but nothing uses it"),
        (["TrainerConfig.stps = 10"], "unknown gin name 'TrainerConfig.stps'; next: did you mean 'steps'?"),
        (["Adafactor.clip_threshold = 1.0"], "Adafactor"),
        (["STEPS = '10'"], "TrainerConfig.steps is '10'; expected int; next: set --gin.STEPS=VALUE"),
        (["STEPS = "], "gin cannot read this"),
        (["train.run = 'other'"], "the gin macro 'RUN' is set but nothing uses it"),
        (["train.experiment = None"], "train.experiment is not set"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(bindings, message):
    assert message in str(refused([BASE], [*PATHS, *bindings]))


def test_a_binding_that_training_never_reads_is_refused():
    error = refused([BASE], [*PATHS, "Constant.rate = 0.1"])
    assert "'Constant.rate' is set but 'Constant' is not used" in str(error)
    assert "LinearWarmupLinearDecay" in error.expected
    experiment_from_gin([BASE], [*PATHS, "AdamW.learning_rate = @Constant()", "Constant.rate = 0.1"])


def test_missing_folders_are_asked_for_by_their_option():
    assert str(refused([BASE], PATHS[1:])).startswith("--corpus is missing")
    assert str(refused([BASE], PATHS[:1])).startswith("--run is missing")


def test_folders_may_be_bound_without_macros(tmp_path):
    file = written(
        tmp_path,
        "train.run = 'r'\ntrain.experiment = @Experiment()\nExperiment.corpus = 'c'\nExperiment.model = @T5Config()\n"
        "Experiment.trainer = @TrainerConfig()\nTrainerConfig.steps = 1\nTrainerConfig.batch_size = 8\n",
    )
    run, experiment = experiment_from_gin([file])
    assert (run, experiment.corpus, experiment.model) == ("r", "c", T5Config())
    assert "the gin macro 'CORPUS' is set" in str(refused([file], ["CORPUS = 'd'"]))


def test_a_parameter_that_nothing_sets_is_named(tmp_path):
    file = written(
        tmp_path,
        "train.run = 'r'\ntrain.experiment = @Experiment()\nExperiment.corpus = 'c'\nExperiment.model = @T5Config()\n",
    )
    assert str(refused([file], [])).startswith("Experiment.trainer is not set; next: bind it")


def test_missing_and_unreadable_files(tmp_path):
    error = refused(["runs/dsi_semantic_from_scrach.gin"])
    assert "no such gin file" in error.found
    assert error.fix == f"did you mean '{BASE}'?"
    file = tmp_path / "latin.gin"
    file.write_bytes("# größe\n".encode("latin-1"))
    assert "not UTF-8" in refused([str(file)]).found
    loop = written(tmp_path, "include 'self.gin'\n")
    (tmp_path / "self.gin").write_text(f"include '{loop}'\n")
    (tmp_path / "mine.gin").write_text(f"include '{tmp_path / 'self.gin'}'\n")
    assert "includes itself" in refused([loop]).found


def test_a_name_bound_twice_in_an_included_file_is_found(tmp_path):
    (tmp_path / "inner.gin").write_text("A = 1\nA = 2\nT5Config.d_model = %A\n")
    error = refused([written(tmp_path, f"include '{tmp_path / 'inner.gin'}'\n")])
    assert (error.file, error.line) == (tmp_path / "inner.gin", 2)


def test_later_files_and_the_command_line_win(tmp_path):
    file = written(tmp_path, "T5Config.d_ff = 96\nSTEPS = 5\n")
    _, experiment = experiment_from_gin([BASE, file], [*PATHS, "STEPS = 6"])
    assert (experiment.model.d_ff, experiment.trainer.steps) == (96, 6)


def test_a_macro_of_another_type_is_refused_by_its_name():
    assert "train.run is 3; expected str; next: set --gin.RUN=VALUE" in str(refused([BASE], [PATHS[0], "RUN = 3"]))


def test_a_name_may_be_set_once_on_the_command_line():
    with pytest.raises(InputError, match="'STEPS' is set twice"):
        require_set_once(["RUN = 'r'", "STEPS = 10", "STEPS = 5000"])
    require_set_once(["RUN = 'r'", "STEPS = 10"])


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ("Experiment.codec=text", "Experiment.codec = 'text'"),
        ("RUN=runs/a-b.1", "RUN = 'runs/a-b.1'"),
        ("RUN='runs/x'", "RUN = 'runs/x'"),
        ("STEPS=10", "STEPS = 10"),
        ("Cosine.peak=2e-3", "Cosine.peak = 2e-3"),
        ("Experiment.start=None", "Experiment.start = None"),
        ("Experiment.docids=@AtomicDocids()", "Experiment.docids = @AtomicDocids()"),
    ],
)
def test_bare_words_need_no_quotes(given, bound):
    assert command_line_binding(given) == bound


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("from __gin__ import dynamic_registration", "'from __gin__ import dynamic_registration'"),
        ("import subprocess", "imports 'subprocess', which runs that module's code"),
        ("from os import path", "expected 'import MODULE'"),
        ("import subprocess as s", "expected 'import MODULE'"),
    ],
)
def test_a_file_imports_nothing_unasked(tmp_path, line, says):
    file = written(tmp_path, f"{line}\ninclude '{BASE}'\n")
    error = refused([file])
    assert says in str(error)
    assert str(error.file) == file


def test_an_allowed_module_gives_its_dataclasses_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "sizes.py").write_text(
        "import dataclasses, pathlib\n"
        "from genret_jax.training import Constant\n"
        "touched = pathlib.Path(__file__).with_name('imported').touch()\n"
        "def run(): ...\n"
        "@dataclasses.dataclass(frozen=True)\nclass Slow:\n    rate: float = 0.1\n"
        "    def build(self, steps): return lambda step: self.rate / steps\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = "import sizes\ninclude '{}'\nAdamW.learning_rate = @Slow()\nSlow.rate = 0.5\n"
    file = written(tmp_path, lines.format(BASE))
    assert "--allow-import sizes" in str(refused([file]))
    assert not (tmp_path / "imported").exists()
    _, experiment = experiment_from_gin([file], PATHS, allow_imports=["sizes"])
    assert experiment.trainer.optimizer.learning_rate.rate == 0.5
    text = record_text("r", experiment)
    assert "import sizes\n" in text
    saved = written(tmp_path, text)
    with pytest.raises(InputError, match="--allow-import sizes"):
        read_record(saved)
    assert read_record(saved, ["sizes"]) == experiment
    for name in ("run", "touched"):
        wrong = written(tmp_path, f"import sizes\ninclude '{BASE}'\nAdamW.learning_rate = @{name}()\n")
        with pytest.raises(InputError, match=f"unknown gin name '{name}'"):
            experiment_from_gin([wrong], PATHS, allow_imports=["sizes"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "train.run = 'r'\n", "train.experiment is not set"),
        (lambda text: text[: text.index("train.experiment")], "the gin macro 'CORPUS' is set but nothing uses it"),
        (lambda text: text.replace("T5Config.d_ff = ", "T5Config.d_fff = "), "unknown gin name 'T5Config.d_fff'"),
        (lambda text: text.replace("T5Config.d_ff = ", "T5Config.d_ff = -"), "T5Config.d_ff is -"),
        (lambda text: text.replace("@T5Config()", "@T5Config("), "gin cannot read this"),
        (lambda text: text.replace("@T5Config()", "open('x')"), "gin cannot read this"),
    ],
)
def test_a_damaged_record_names_its_file(tmp_path, change, says):
    file = written(tmp_path, change(record_text("r", tiny_experiment("c"))))
    with pytest.raises(InputError) as caught:
        read_record(file)
    assert says in caught.value.found
    assert str(caught.value.file) == file


def test_scopes_tell_two_objects_of_one_class_apart(tmp_path):
    file = written(
        tmp_path,
        f"include '{BASE}'\nAdamW.learning_rate = @slow/Constant()\nConstant.rate = 0.5\nslow/Constant.rate = 0.1\n",
    )
    assert experiment_from_gin([file], PATHS)[1].trainer.optimizer.learning_rate.rate == 0.1


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two schedules."""

    first: Constant
    second: Constant


def test_a_record_holds_two_objects_of_one_class(monkeypatch):
    monkeypatch.setitem(DERIVED, "Pair", __name__)
    pair = Pair(Constant(rate=0.1), Constant(rate=0.2))
    bindings = to_bindings("x", pair)
    assert (bindings["Pair.first"], bindings["Pair.second"]) == ("@Constant()", "@second/Constant()")
    assert from_bindings("x", bindings) == pair


def test_an_indented_include_of_itself_is_found(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text(f"  include '{file}'\n")
    assert "includes itself" in str(refused([str(file)]))


def test_recipes_have_short_names_and_a_line_each():
    known = recipes()
    assert {"semantic", "atomic", "naive", "residual", "t5", "byt5", "genret", "nci", "queries", "tiger"} <= set(known)
    assert {"codes-pretrained", "autoregressive-pretrained", "nci-pretrained", "genret-pretrained"} <= set(known)
    assert known["tiger"][0] == "runs/tiger.gin"
    assert all(line and "\n" not in line and len(line) < 120 for _, line in known.values())
    assert recipe_file("tiger") == "runs/tiger.gin"
    with pytest.raises(InputError, match="did you mean 'tiger'"):
        recipe_file("tigr")
    experiment = recipe_experiment("semantic", "c", steps=7, overrides={"AdamW.b2": 0.9})
    assert (experiment.corpus, experiment.trainer.steps, experiment.trainer.optimizer.b2) == ("c", 7, 0.9)
    with pytest.raises(InputError, match=r"unknown gin name 'AdamW\.b3'"):
        recipe_experiment("semantic", "c", overrides={"AdamW.b3": 0.9})


def test_values_become_bindings_and_none_leaves_what_is_configured():
    values = {"STEPS": 7, "CORPUS": "c'orpus", "SEED": None}
    assert bindings_of(values) == ["STEPS = 7", 'CORPUS = "c\'orpus"']
    assert bindings_of(values, keep_none=True)[2:] == ["SEED = None"]


def test_gin_and_python_give_equal_experiments(tmp_path):
    expected = tiny_experiment("c'orpus")
    file = written(tmp_path, record_text("r un", expected))
    run, experiment = experiment_from_gin([file])
    assert (run, experiment) == ("r un", expected)
    assert type(experiment) is Experiment
    assert experiment.identity() == expected.identity()
    assert record_text(run, experiment) == record_text("r un", expected)


@pytest.mark.parametrize("file", RUNNABLE)
def test_a_saved_configuration_gives_the_same_experiment_and_takes_macros(file, tmp_path):
    run, experiment = experiment_from_gin([file], paths(file))
    saved = written(tmp_path, record_text(run, experiment))
    assert experiment_from_gin([saved]) == (run, experiment)
    other_run, other = experiment_from_gin([saved], ["RUN = 'other'", "STEPS = 8"])
    assert (other_run, other.trainer.steps, other.model) == ("other", 8, experiment.model)


def test_a_saved_configuration_holds_paths_and_starts(tmp_path):
    expected = tiny_experiment(
        "c",
        docids="a table",
        vocabulary=VocabularyConfig(kind="file", path="t5.model", normalization="none", extra_ids=100),
        start=PretrainedStart(path="t5-small"),
    )
    assert experiment_from_gin([written(tmp_path, record_text("r", expected))]) == ("r", expected)


def test_a_folder_of_runs_beside_a_command_is_no_package_of_gin_files(tmp_path, monkeypatch):
    """As for ``python -m genret_jax.train``, which looks for packages where it is called."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert experiment_from_gin(["runs/dsi_atomic_from_scratch.gin"], PATHS)[0] == "run"
