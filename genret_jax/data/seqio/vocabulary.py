"""A seqio vocabulary for the tokens of an example store; seqio and TensorFlow are imported at the first use."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genret_jax.data.examples.token_text import TokenText
from genret_jax.data.text.abstract_vocabulary import EOS, UNKNOWN
from genret_jax.errors import InputError


def import_seqio() -> tuple[Any, Any]:
    """Return the modules seqio and tensorflow.

    Raises:
        InputError: If they are not installed.
    """
    try:
        import seqio
        import tensorflow
    except ImportError as error:
        raise InputError(
            f"seqio tasks need seqio and TensorFlow ({error})", fix="pip install 'genret_jax[seqio]'"
        ) from None
    return seqio, tensorflow


def seqio_vocabulary(text: TokenText, *, size: int, has_unknown: bool, fingerprint: str) -> Any:
    """Return a ``seqio.Vocabulary`` whose tokens are ours.

    Sentinels count as ordinary tokens (``extra_ids`` is 0), because seqio expects sentinels to be the last tokens, and
    docid tokens follow ours.

    Args:
        text: Converter between tokens and text.
        size: Number of tokens.
        has_unknown: Whether token 2 is the unknown token (in a vocabulary of docids only it may be a docid).
        fingerprint: Vocabularies with equal fingerprints are equal; seqio requires equal ones for a mixture.
    """
    return _vocabulary_class()(text, size, has_unknown, fingerprint)


@functools.cache
def _vocabulary_class() -> type:
    seqio, tf = import_seqio()

    class StoreVocabulary(seqio.Vocabulary):  # type: ignore[name-defined]
        """Tokens of an example store."""

        def __init__(self, text: TokenText, size: int, has_unknown: bool, fingerprint: str):
            self._text, self._size, self._has_unknown, self._fingerprint = text, size, has_unknown, fingerprint
            super().__init__(extra_ids=0)

        @property
        def eos_id(self) -> int:
            """Return T5's EOS token."""
            return EOS

        @property
        def bos_id(self) -> None:
            """Return None: sequences begin with padding, as in T5."""
            return None

        @property
        def unk_id(self) -> int | None:
            """Return T5's unknown token, if text can be unknown."""
            return UNKNOWN if self._has_unknown else None

        @property
        def _base_vocab_size(self) -> int:
            return self._size

        def _encode(self, s: str) -> Sequence[int]:
            return self._text.encode(s)

        def _decode(self, ids: Any) -> str:
            return self._text.decode([int(i) for i in ids])

        def _encode_tf(self, s: Any) -> Any:
            tokens = tf.numpy_function(_encoder(self._encode), [s], tf.int32)
            tokens.set_shape([None])
            return tokens

        def _decode_tf(self, ids: Any) -> Any:
            text = tf.numpy_function(_decoder(self._decode), [ids], tf.string)
            text.set_shape(ids.shape[:-1])
            return text

        def __eq__(self, other: object) -> bool:
            return isinstance(other, StoreVocabulary) and self._fingerprint == other._fingerprint

        def __hash__(self) -> int:
            return hash(self._fingerprint)

        def __repr__(self) -> str:
            return f"StoreVocabulary(size={self._size}, fingerprint={self._fingerprint!r})"

    return StoreVocabulary


def _encoder(encode: Callable[[str], Sequence[int]]) -> Callable[[Any], np.ndarray]:
    """Return a function from one UTF-8 string to tokens."""
    return lambda text: np.array(encode(np.asarray(text).item().decode()), np.int32)


def _decoder(decode: Callable[[Any], str]) -> Callable[[np.ndarray], Any]:
    """Return a function that decodes arrays of any rank along the last axis."""

    def decoded(ids: np.ndarray) -> Any:
        rows = [decode(row).encode("utf-8") for row in ids.reshape(-1, ids.shape[-1])]
        return np.array(rows, object).reshape(ids.shape[:-1]) if ids.ndim > 1 else rows[0]

    return decoded
