"""Indexing objectives in which the decoder writes text (Tay et al. 2022, arXiv 2202.06991, section 3.1.1)."""

import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.sampler_config import SamplerConfig
from genret_jax.data.examples.store import ExampleStore, pack_rows
from genret_jax.data.text.vocabulary import EOS, PAD

_DIRECTION = 300  # stream of the counter-based random numbers
_TO_DOCID, _TO_TEXT = 0, 1  # numbers of the sentinels that mark the direction


def text_examples(
    store: ExampleStore,
    config: SamplerConfig,
    random: RowRandom,
    *,
    words: Int32[np.ndarray, "b w"],
    alternatives: Int[np.ndarray, "b w"],
    whole: Int32[np.ndarray, "b w"],
    docids: Int32[np.ndarray, "b m"],
) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"], Bool[np.ndarray, " b"]]:
    """Make the tokens of indexing examples for an objective whose decoder may write text.

    Args:
        store: The store.
        config: Objective, lengths and noise.
        random: Random numbers of the rows.
        words: Words of the documents that the encoder sees, b rows.
        alternatives: Number of the segmentation of each of these words.
        whole: The same words before word drop, which the decoder writes.
        docids: Docid tokens, padded with 0 to the decoder's length.

    Returns:
        Encoder inputs, decoder targets, and whether the targets of a row are text instead of a docid.
    """
    room, sentinel = config.input_length - config.append_eos, store.vocabulary_size - 1

    def encoder_input(*parts: Int32[np.ndarray, "b _"]) -> Int32[np.ndarray, "b l"]:
        tokens = np.pad(_joined(parts, room), ((0, 0), (0, int(config.append_eos))))
        if config.append_eos:
            tokens[np.arange(len(tokens)), (tokens != PAD).sum(1)] = EOS
        return tokens

    document = store.tokens(words, room, alternatives=alternatives)
    if config.objective == "span_corruption":
        both = _joined((docids, document), room)
        inputs, targets = config.span_corruption.corrupt(both, random, sentinel=sentinel, target_length=docids.shape[1])
        return encoder_input(inputs), targets, np.ones(len(inputs), bool)
    written = store.tokens(whole, docids.shape[1], append_eos=True)
    if config.objective == "targets_to_inputs":
        return encoder_input(docids), written, np.ones(len(docids), bool)
    # Bidirectional: one direction or the other, half of the examples each, with a sentinel in front of the input.
    to_text = random.uniform(_DIRECTION) < 0.5
    either = to_text[:, None]
    front = np.where(either, sentinel - _TO_TEXT, sentinel - _TO_DOCID).astype(np.int32)
    inputs = np.where(either, encoder_input(front, docids), encoder_input(front, document))
    return inputs, np.where(either, written, docids), to_text


def _joined(parts: tuple[Int32[np.ndarray, "b _"], ...], width: int) -> Int32[np.ndarray, "b width"]:
    """Join the rows of padded parts without padding and EOS between them."""
    joined = np.concatenate(parts, axis=1)
    return pack_rows(joined, (joined != PAD) & (joined != EOS), width, PAD)
