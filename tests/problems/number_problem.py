"""A third problem: numbers, asked for in words, whose docids are their digits."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from genret_jax.config.experiment import BaseExperiment
from genret_jax.data.corpus import Corpus
from genret_jax.docids import DocidCodec, DocidTable, NaiveStringDocids
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit
from genret_jax.models.config import divisible
from genret_jax.problems import Problem, Requests, Setup
from genret_jax.training.docid_task import DocidTask

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberExperiment(BaseExperiment):
    """Choices of an experiment on numbers."""

    docids: NaiveStringDocids = NaiveStringDocids()


class NumberTask(DocidTask):
    """Numbers in words in, digits out."""

    def __init__(self, config, inputs, targets, nodes, batch_size, seed, **losses):
        super().__init__(config, None, **losses)
        self._inputs, self._targets, self._nodes = inputs, targets, nodes
        self._batch_size, self._seed = batch_size, seed

    def batch(self, step, rows=None):
        """Return the same numbers for the same step, whatever happened before."""
        drawn = np.random.default_rng([self._seed, step]).integers(len(self._inputs), size=self._batch_size)
        drawn = drawn if rows is None else drawn[rows]
        return {"inputs": self._inputs[drawn], "targets": self._targets[drawn], "nodes": self._nodes[drawn]}

    def loss(self, params, batch, dropout_rng):
        """Return the sums of a batch."""
        targets = batch["targets"]
        return self.written(
            params,
            batch["inputs"],
            jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
            batch["nodes"],
            targets,
            (targets > 0).astype(jnp.float32),
            dropout_rng,
        )


class Numbers(Problem):
    """The numbers of a file ``numbers.txt``, one a line."""

    experiment_class = NumberExperiment
    kind = "numbers"

    @staticmethod
    def read(folder):
        """Read the numbers."""
        file = Path(folder) / "numbers.txt"
        if not file.is_file():
            raise InputError("the file is missing", file=file, fix="check the path")
        numbers = tuple(file.read_text().split())
        return Corpus(name="numbers", doc_ids=numbers, titles=numbers, texts=("",) * len(numbers), source=str(folder))

    def prepare(self, data, log, like):
        """Write the numbers and their docids."""

        def write_numbers(path):
            path.mkdir()
            (path / "numbers.txt").write_text("\n".join(data.doc_ids))

        self._make("corpus", write_numbers, like)
        assign, seed = self.experiment.docids.assign, self.experiment.docid_seed
        self._make("docids", lambda path: assign(data.doc_ids, None, seed, data.fingerprint).save(path), like)
        table = DocidTable.load(self.folder / "docids")
        log(f"numbers     {len(data):,}")
        codec = DocidCodec(first_token=16, level_sizes=table.level_sizes, eos="always")
        return Setup(
            name="numbers",
            codec=codec,
            model=dataclasses.replace(self.experiment.model, vocab_size=divisible(codec.vocab_size)),
            fingerprints={"corpus": data.fingerprint, "docids": table.fingerprint},
        )

    @property
    def corpus(self):
        """The numbers."""
        return self._read_quietly(self.read)

    def encode(self, requests):
        """Return the words of each number as tokens 2 to 11, padded with 0."""
        unknown = [word for text in requests for word in text.split() if word not in WORDS]
        if unknown:
            raise InputError(f"'{unknown[0]}' is no digit", expected=f"words of {', '.join(WORDS)}")
        tokens = np.zeros((len(requests), 4), np.int32)
        for row, text in enumerate(requests):
            spelt = [2 + WORDS.index(word) for word in text.split()]
            tokens[row, : len(spelt)] = spelt
        return tokens

    def task(self):
        """Return the task that is trained."""
        rows, trainer = self.row_of_document, self.experiment.trainer
        return NumberTask(
            self.model,
            self.encode([in_words(number) for number in self.corpus.doc_ids]),
            self.encoded.tokens[rows],
            self.encoded.prefix_nodes[rows],
            trainer.batch_size,
            self.seed,
            **self.experiment.losses,
        )

    def requests(self, split, measured):
        """Return every number, asked for in words."""
        numbers = self.corpus.doc_ids
        texts = {f"ask {number}": in_words(number) for number in numbers}
        qrels = {f"ask {number}": {number: 1} for number in numbers}
        return Requests(
            split=EvaluationSplit(name=split, qrels=qrels), tokens=self.encode(list(texts.values())), texts=texts
        )

    def validation(self):
        """Return every number, too."""
        return self.requests("validation", None)


def in_words(number):
    """Return a number digit by digit: ``"one two"``."""
    return " ".join(WORDS[int(digit)] for digit in number)
