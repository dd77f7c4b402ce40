"""Indexing objectives in which the decoder writes text (Tay et al. 2022, arXiv 2202.06991, section 3.1.1)."""

import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.sampler_config import SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.vocabulary import EOS, PAD

_DIRECTION = 300  # stream of the counter-based random numbers
_TO_DOCID, _TO_TEXT = 0, 1  # numbers of the sentinels that tell the directions apart


class TextTargets:
    """The tokens of indexing examples whose decoder may write text.

    Args:
        store: The store.
        config: Objective, lengths and noise.
        words: Words of the documents as the encoder shows them, b rows.
        alternatives: Which segmentation each of these has.
        whole: The same words before any was dropped, for the decoder to write.
        docids: Docid tokens, padded with 0 to the decoder's length.
    """

    def __init__(
        self,
        store: ExampleStore,
        config: SamplerConfig,
        *,
        words: Int32[np.ndarray, "b w"],
        alternatives: Int[np.ndarray, "b w"],
        whole: Int32[np.ndarray, "b w"],
        docids: Int32[np.ndarray, "b m"],
    ):
        self._store, self._config = store, config
        self._words, self._alternatives, self._whole, self._docids = words, alternatives, whole, docids
        self._length = docids.shape[1]
        self._room = config.input_length - config.append_eos
        self._sentinel = store.vocabulary_size - 1

    def examples(
        self, random: RowRandom
    ) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"], Bool[np.ndarray, " b"]]:
        """Return encoder inputs, decoder targets, and whether a row's targets are text instead of a docid."""
        if self._config.objective == "targets_to_inputs":
            inputs, targets = self._encoder_input(self._docids), self._asked()
            return inputs, targets, np.ones(len(inputs), bool)
        if self._config.objective == "span_corruption":
            inputs, targets = self._span_corruption(random)
            return inputs, targets, np.ones(len(inputs), bool)
        return self._bidirectional(random)

    def _bidirectional(
        self, random: RowRandom
    ) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"], Bool[np.ndarray, " b"]]:
        """Either direction, half of the examples each, told by a sentinel in front of the input."""
        to_text = random.uniform(_DIRECTION) < 0.5
        either = to_text[:, None]
        front = np.where(either, self._sentinel - _TO_TEXT, self._sentinel - _TO_DOCID).astype(np.int32)
        from_docid = self._encoder_input(front, self._docids)
        from_text = self._encoder_input(front, self._shown())
        targets = np.where(either, self._asked(), self._docids)
        return np.where(either, from_docid, from_text), targets, to_text

    def _span_corruption(self, random: RowRandom) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"]]:
        """Masked spans of docid and document, one after the other."""
        whole = _side_by_side(_without_eos(self._docids), self._shown())[:, : self._room]
        inputs, targets = self._config.span_corruption.corrupt(
            whole, random, sentinel=self._sentinel, target_length=self._length
        )
        return self._encoder_input(inputs), targets

    def _shown(self) -> Int32[np.ndarray, "b room"]:
        """Return the document as an encoder reads it."""
        return self._store.tokens(self._words, self._room, alternatives=self._alternatives)

    def _asked(self) -> Int32[np.ndarray, "b m"]:
        """Return the document as a decoder should write it: nothing left out, the best segmentations, EOS."""
        return self._store.tokens(self._whole, self._length, append_eos=True)

    def _encoder_input(self, *parts: Int32[np.ndarray, "b _"]) -> Int32[np.ndarray, "b l"]:
        """Return the parts one after the other, cut or padded to the encoder's length."""
        whole = _without_eos(_side_by_side(*parts))[:, : self._room]
        tokens = np.pad(whole, ((0, 0), (0, self._config.input_length - whole.shape[1])))
        if self._config.append_eos:
            tokens[np.arange(len(tokens)), (tokens != PAD).sum(1)] = EOS
        return tokens


def _without_eos(tokens: Int32[np.ndarray, "b w"]) -> Int32[np.ndarray, "b w"]:
    return np.where(tokens == EOS, np.int32(PAD), tokens)


def _side_by_side(*parts: Int32[np.ndarray, "b _"]) -> Int32[np.ndarray, "b w"]:
    """Join padded rows, moving the padding to the end."""
    joined = np.concatenate(parts, axis=1)
    order = np.argsort(joined == PAD, axis=1, kind="stable")
    return np.take_along_axis(joined, order, axis=1)
