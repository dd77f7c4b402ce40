"""Sentence encoders: folders of sentence-transformers (Reimers and Gurevych 2019, arXiv 1908.10084), without torch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.convert.bert_layout import read_bert
from genret_jax.models.convert.sentence_modules import (
    find_modules,
    read_max_length,
    read_pooling,
    read_projection,
    read_prompts,
    read_tokenizer,
)
from genret_jax.models.convert.t5_encoder import read_t5_encoder
from genret_jax.models.encoders.config import BertConfig, Pooling, SentenceForm
from genret_jax.models.encoders.getting import find_encoder
from genret_jax.models.encoders.pooling import Projection, pooled
from genret_jax.storage import read_json
from genret_jax.validation import at_least, check_fields

_LENGTHS = 16  # inputs are padded to a multiple, so that few programs are compiled
_STEPS = 8  # from this many multiples on, to a multiple of twice as much, and so on
_TOGETHER = 1024  # texts tokenised together; the tokenizer's own output is many times their size


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceEncoder:
    """A pretrained encoder with its tokenizer, and how its states become one vector.

    Attributes:
        config: Shape of the network: BERT or MPNet, or the T5 whose encoder it is.
        params: Parameters of the network.
        tokenizer: The ``tokenizers.Tokenizer`` of the folder.
        pad: The token that pads in the tokenizer, which is exchanged with 0.
        max_length: Tokens of the longest input; longer ones are cut.
        pooling: ``"mean"`` of the states, the state of the first token (``"cls"``), or their ``"max"``.
        projection: Linear map of the pooled vectors; None for none.
        normalize: Scale vectors to length 1.
        prompts: Text put before an input, by its role: ``{"query": "query: ", "passage": "passage: "}``.
    """

    config: BertConfig | T5Config
    params: Mapping[str, Any]
    tokenizer: Any
    pad: int
    max_length: int
    pooling: Pooling
    projection: Projection | None = None
    normalize: bool
    prompts: Mapping[str, str]

    name: ClassVar[str] = "the pretrained encoder"

    @classmethod
    def load(cls, folder: str | Path) -> "SentenceEncoder":
        """Read a folder of sentence-transformers, or one of transformers, whose states are averaged.

        Args:
            folder: A folder with ``config.json`` of a BERT, an MPNet or a T5, ``model.safetensors``,
                ``tokenizer.json``, and ``modules.json`` with the files that it names.

        Raises:
            InputError: If a file is missing or damaged, or a module is of another kind.
        """
        folder = Path(folder)
        modules = find_modules(folder)
        body = modules["Transformer"]
        config, params, pad = _read_network(body)
        width = config.d_model
        return cls(
            config=config,
            params=params,
            tokenizer=read_tokenizer(body),
            pad=pad,
            max_length=read_max_length(body, config.max_length if isinstance(config, BertConfig) else None),
            pooling=read_pooling(modules["Pooling"], width) if "Pooling" in modules else "mean",
            projection=read_projection(modules["Dense"], width) if "Dense" in modules else None,
            normalize="Normalize" in modules,
            prompts=read_prompts(folder),
        )

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.config.d_model if self.projection is None else len(self.projection.bias)

    def tokens(self, texts: Sequence[str], role: str | None = None) -> Int[np.ndarray, "n l"]:
        """Return the tokens of texts, cut to ``max_length`` and padded with 0.

        Args:
            texts: Texts, to which the prompt of their role is added.
            role: ``"query"`` or ``"passage"``; None adds nothing.
        """
        return self._padded(list(self._rows(texts, role)))

    def form(self, role: str | None = None) -> SentenceForm:
        """Return how a text becomes an input, and the states one vector, for a network that has this encoder.

        Args:
            role: As in :meth:`tokens`.
        """
        self.tokenizer.no_truncation()
        around = self.tokenizer.encode("").ids
        prompt = self.tokenizer.encode(self.prompts.get(role, "") if role else "", add_special_tokens=False).ids
        exchange = {self.pad: 0, 0: self.pad}
        first, last = ([exchange.get(token, token) for token in part] for part in (around[:-1] + prompt, around[-1:]))
        return SentenceForm(first_tokens=tuple(first), last_token=(last or [0])[0], pooling=self.pooling)

    def vectors(
        self, texts: Sequence[str], role: str | None = None, *, batch_size: int = 32, progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Return one vector for each text.

        Args:
            texts: Texts.
            role: As in :meth:`tokens`.
            batch_size: Texts encoded together, of similar lengths. A CPU is fastest with few, a GPU needs many.
            progress: Show a progress bar on stderr.
        """
        from tqdm import tqdm

        rows = list(self._rows(texts, role))
        # The longest first: the last batch is filled up, which costs least with short texts.
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        found = np.zeros((len(rows), self.width), np.float32)
        params, projection = jax.device_put((self.params, self.projection))
        how = {"config": self.config, "pooling": self.pooling, "normalize": self.normalize}
        starts = range(0, len(rows), batch_size)
        for start in tqdm(starts, desc="encoding", unit="batch", disable=not progress, leave=False, delay=2):
            batch = order[start : start + batch_size]
            tokens = self._padded([rows[index] for index in batch])
            full = np.pad(tokens, ((0, batch_size - len(batch)), (0, 0)))  # the last batch compiles nothing
            found[batch] = np.asarray(pooled(params, full, projection, **how))[: len(batch)]
        return found

    def _rows(self, texts: Sequence[str], role: str | None) -> Iterator[Int[np.ndarray, "_"]]:
        prompt = self.prompts.get(role, "") if role else ""
        self.tokenizer.enable_truncation(self.max_length)
        for start in range(0, len(texts), _TOGETHER):
            some = [prompt + text for text in texts[start : start + _TOGETHER]]
            for encoded in self.tokenizer.encode_batch(some):
                yield np.array(encoded.ids, np.int32)

    def _padded(self, rows: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "n l"]:
        length, step = max((len(row) for row in rows), default=1), _LENGTHS
        while length > _STEPS * step:
            step *= 2
        padded = np.full((len(rows), min(-(-length // step) * step, self.max_length)), self.pad, np.int32)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        is_pad, is_first = padded == self.pad, padded == 0
        padded[is_first], padded[is_pad] = self.pad, 0
        return padded


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderVectors:
    """Document vectors from a pretrained sentence encoder, a source of vectors for docids.

    Attributes:
        path: Folder of the encoder (see :meth:`SentenceEncoder.load`), or the name of a downloaded one.
        batch_size: Documents that are encoded together. A CPU is fastest with few, a GPU needs many.
    """

    path: str
    batch_size: Annotated[int, at_least(1)] = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def vectors(self, corpus: Any) -> Float[np.ndarray, "n d"]:
        """Encode ``title. text`` of every document of a corpus.

        Raises:
            InputError: If the folder cannot be read.
        """
        texts = [corpus.document_text(index) for index in range(len(corpus))]
        encoder = SentenceEncoder.load(find_encoder(self.path))
        return encoder.vectors(texts, "passage", batch_size=self.batch_size, progress=True)


def _read_network(body: Path) -> tuple[BertConfig | T5Config, dict[str, Any], int]:
    """Return the network of a folder, its parameters, and the token that pads in the folder's tokenizer."""
    kind = read_json(body / "config.json", expect=dict).get("model_type")
    return (*read_t5_encoder(body), 0) if kind in ("t5", "mt5") else read_bert(body)
