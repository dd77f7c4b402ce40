"""Sentence encoders: folders of sentence-transformers (Reimers and Gurevych 2019, arXiv 1908.10084), without torch."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genret_jax.errors import InputError
from genret_jax.models.convert.bert_layout import read_bert
from genret_jax.models.convert.stored_arrays import path_within
from genret_jax.models.encoders.bert import BertConfig, BertEncoder
from genret_jax.models.encoders.getting import find_encoder
from genret_jax.storage import read_json
from genret_jax.validation import at_least, check_fields

Pooling = Literal["mean", "cls", "max"]
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_MODULES = ("Transformer", "Pooling", "Normalize")
_LENGTHS = 16  # inputs are padded to a multiple, so that few programs are compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceEncoder:
    """A pretrained encoder with its tokenizer, and how its states become one vector.

    Attributes:
        config: Shape of the network.
        params: Parameters of :class:`~genret_jax.models.encoders.bert.BertEncoder`.
        tokenizer: The ``tokenizers.Tokenizer`` of the folder.
        pad: The token that pads in the tokenizer, which is exchanged with 0.
        max_length: Tokens of the longest input; longer ones are cut.
        pooling: ``"mean"`` of the states, the state of the first token (``"cls"``), or their ``"max"``.
        normalize: Scale vectors to length 1.
        prompts: Text put before an input, by its role: ``{"query": "query: ", "passage": "passage: "}``.
    """

    config: BertConfig
    params: Mapping[str, Any]
    tokenizer: Any
    pad: int
    max_length: int
    pooling: Pooling
    normalize: bool
    prompts: Mapping[str, str]

    @classmethod
    def load(cls, folder: str | Path) -> "SentenceEncoder":
        """Read a folder of sentence-transformers, or one of transformers, whose states are averaged.

        Args:
            folder: A folder with ``config.json``, ``model.safetensors``, ``tokenizer.json``, and ``modules.json`` with
                the files that it names.

        Raises:
            InputError: If a file is missing or damaged, or a module is of another kind.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("this is not a folder", file=folder, expected="an encoder's folder", fix="check the path")
        modules = _modules(folder)
        body = path_within(folder, modules.get("Transformer") or ".", named_in=folder / "modules.json")
        config, params, pad = read_bert(body)
        described = folder / "sentence_bert_config.json"
        longest = read_json(described, expect=dict).get("max_seq_length") if described.is_file() else None
        if longest is not None and not (isinstance(longest, int) and longest > 2):
            raise InputError(
                f"max_seq_length {longest!r}", file=described, expected="an integer of at least 3, or null"
            )
        return cls(
            config=config,
            params=params,
            tokenizer=_read_tokenizer(body / "tokenizer.json"),
            pad=pad,
            max_length=min(longest or config.max_length, config.max_length),
            pooling=_pooling(folder, modules, config),
            normalize="Normalize" in modules,
            prompts=_prompts(folder),
        )

    def tokens(self, texts: Sequence[str], role: str | None = None) -> Int[np.ndarray, "n l"]:
        """Return the tokens of texts, cut to ``max_length`` and padded with 0.

        Args:
            texts: Texts, to which the prompt of their role is added.
            role: ``"query"`` or ``"passage"``; None adds nothing.
        """
        prompt = self.prompts.get(role, "") if role else ""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length)
        rows = [encoded.ids for encoded in self.tokenizer.encode_batch([prompt + text for text in texts])]
        length = max((len(row) for row in rows), default=1)
        padded = np.full((len(rows), min(-(-length // _LENGTHS) * _LENGTHS, self.max_length)), self.pad, np.int32)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        is_pad, is_first = padded == self.pad, padded == 0
        padded[is_first], padded[is_pad] = self.pad, 0
        return padded

    def vectors(
        self, texts: Sequence[str], role: str | None = None, *, batch_size: int = 64, progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Return one vector for each text.

        Args:
            texts: Texts.
            role: As in :meth:`tokens`.
            batch_size: Texts encoded together, of similar lengths.
            progress: Show a progress bar on stderr.
        """
        from tqdm import tqdm

        found = np.zeros((len(texts), self.config.d_model), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        params = jax.device_put(self.params)
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, desc="encoding", unit="batch", disable=not progress, leave=False):
            rows = order[start : start + batch_size]
            tokens = self.tokens([texts[index] for index in rows], role)
            full = np.pad(tokens, ((0, batch_size - len(rows)), (0, 0)))  # the last batch compiles nothing
            made = pooled(params, full, config=self.config, pooling=self.pooling, normalize=self.normalize)
            found[rows] = np.asarray(made)[: len(rows)]
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderVectors:
    """Document vectors from a pretrained sentence encoder, a source of vectors for docids.

    Attributes:
        path: Folder of the encoder, see :meth:`SentenceEncoder.load`, or the name of one that ``genret encoder get``
            has downloaded.
        batch_size: Documents that are encoded together.
    """

    path: str
    batch_size: Annotated[int, at_least(1)] = 64

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


@functools.partial(jax.jit, static_argnames=("config", "pooling", "normalize"))
def pooled(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    *,
    config: BertConfig,
    pooling: Pooling,
    normalize: bool,
) -> Float[Array, "b d"]:
    """Encode token sequences and return one vector for each, in float32; zero for one without tokens."""
    states = BertEncoder(config).apply({"params": params}, tokens).astype(jnp.float32)
    kept = (tokens > 0)[..., None]
    if pooling == "cls":
        vectors = states[:, 0]
    elif pooling == "max":
        vectors = jnp.where(kept, states, -jnp.inf).max(1)
    else:
        vectors = jnp.where(kept, states, 0.0).sum(1) / jnp.maximum(kept.sum(1), 1)
    vectors = jnp.where(kept.any(1), vectors, 0.0)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalize else vectors


def _modules(folder: Path) -> dict[str, str]:
    """Return kind -> path of the modules that ``modules.json`` lists; none without such a file."""
    file = folder / "modules.json"
    if not file.is_file():
        return {}
    found = {}
    for module in read_json(file, expect=list):
        kind = str(module.get("type")).rpartition(".")[2] if isinstance(module, dict) else str(module)
        if kind not in _MODULES:
            raise InputError(f"the module {kind}", file=file, expected=f"one of {', '.join(_MODULES)}")
        found[kind] = module.get("path", "")
    return found


def _pooling(folder: Path, modules: Mapping[str, str], config: BertConfig) -> Pooling:
    if "Pooling" not in modules:
        return "mean"
    file = path_within(folder, modules["Pooling"], named_in=folder / "modules.json") / "config.json"
    stored = read_json(file, expect=dict)
    if (width := stored.get("word_embedding_dimension")) != config.d_model:
        raise InputError(
            f"pooling of vectors of width {width}",
            file=file,
            expected=f"{config.d_model}, as the encoder",
            fix="download the folder again",
        )
    chosen = [name for name, value in stored.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise InputError(
            f"pooling by {', '.join(chosen) or 'nothing'}", file=file, expected=f"one of {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[chosen[0]]


def _prompts(folder: Path) -> dict[str, str]:
    file = folder / "config_sentence_transformers.json"
    prompts = read_json(file, expect=dict).get("prompts") if file.is_file() else None
    return {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {}


def _read_tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    if not file.is_file():
        raise InputError("the file is missing", file=file, fix="download the folder again")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"not a tokenizer ({error})", file=file, fix="download the folder again") from None
