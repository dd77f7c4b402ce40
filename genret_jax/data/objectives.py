"""Indexing objectives in which the decoder writes text (Tay et al. 2022, arXiv 2202.06991, section 3.1.1)."""

import numpy as np
from jaxtyping import Int, Int32

from genret_jax.data.counter_random import RowRandom
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.span_corruption import SpanCorruption
from genret_jax.data.vocabulary import EOS, PAD

_DIRECTION = 300  # stream of the counter-based random numbers
_TO_DOCID, _TO_TEXT = 0, 1  # the sentinels that tell the directions apart


class TextTargets:
    """The tokens of indexing examples whose decoder may write text.

    Args:
        store: The store.
        words: Words of the documents as they are shown, b rows.
        alternatives: Which segmentation each word has.
        docids: Docid tokens, padded with 0.
        input_length: Encoder tokens.
        decoder_length: Decoder tokens.
        append_eos: End encoder inputs with EOS.
    """

    def __init__(
        self,
        store: ExampleStore,
        words: Int32[np.ndarray, "b w"],
        alternatives: Int[np.ndarray, "b w"],
        docids: Int32[np.ndarray, "b d"],
        *,
        input_length: int,
        decoder_length: int,
        append_eos: bool,
    ):
        self._store, self._words, self._alternatives, self._docids = store, words, alternatives, docids
        self._input_length, self._decoder_length, self._append_eos = input_length, decoder_length, append_eos
        self._sentinel = store.vocabulary_size - 1

    def targets_to_inputs(self) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"]]:
        """Docid → document."""
        inputs = self._joined(self._docids)
        return inputs, self._text(self._decoder_length, append_eos=True)

    def bidirectional(self, random: RowRandom) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"]]:
        """Either direction, half of the examples each, told by a sentinel in front of the input."""
        backward = random.uniform(_DIRECTION) < 0.5
        front = np.where(backward, self._sentinel - _TO_TEXT, self._sentinel - _TO_DOCID).astype(np.int32)[:, None]
        docids = np.pad(self._docids, ((0, 0), (0, self._decoder_length - self._docids.shape[1])))
        shown = np.where(
            backward[:, None], self._joined(front, self._docids), self._joined(front, self._text(self._input_length))
        )
        return shown, np.where(backward[:, None], self._text(self._decoder_length, append_eos=True), docids)

    def span_corruption(
        self, noise: SpanCorruption, random: RowRandom
    ) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"]]:
        """Masked spans of docid and document, one after the other."""
        room = self._input_length - self._append_eos
        whole = _side_by_side(_without_eos(self._docids), self._text(room))[:, :room]
        inputs, targets = noise.corrupt(whole, random, sentinel=self._sentinel, target_length=self._decoder_length)
        return self._joined(inputs), targets

    def _text(self, length: int, *, append_eos: bool = False) -> Int32[np.ndarray, "b length"]:
        return self._store.tokens(self._words, length, alternatives=self._alternatives, append_eos=append_eos)

    def _joined(self, *parts: Int32[np.ndarray, "b _"]) -> Int32[np.ndarray, "b l"]:
        """Return the parts one after the other as encoder input."""
        room = self._input_length - self._append_eos
        whole = _without_eos(_side_by_side(*parts))[:, :room]
        tokens = np.pad(whole, ((0, 0), (0, self._input_length - whole.shape[1])))
        if self._append_eos:
            tokens[np.arange(len(tokens)), (tokens != PAD).sum(1)] = EOS
        return tokens


def _without_eos(tokens: Int32[np.ndarray, "b w"]) -> Int32[np.ndarray, "b w"]:
    return np.where(tokens == EOS, np.int32(PAD), tokens)


def _side_by_side(*parts: Int32[np.ndarray, "b _"]) -> Int32[np.ndarray, "b w"]:
    """Join padded rows, moving the padding to the end."""
    joined = np.concatenate(parts, axis=1)
    order = np.argsort(joined == PAD, axis=1, kind="stable")
    return np.take_along_axis(joined, order, axis=1)
