"""T5's span corruption, for many sequences at once (Raffel et al. 2020, arXiv 1910.10683, section 3.1.4)."""

import dataclasses
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.store import pack_rows
from genret_jax.data.text.vocabulary import EOS, PAD
from genret_jax.validation import at_least, check_fields, less_than, more_than

_NOISE, _REST, _ROLL = 200, 201, 202  # streams of the counter-based random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """The noise of span corruption.

    Attributes:
        noise_density: Share of the tokens that are masked.
        mean_span: Mean length of a masked span, in tokens.
    """

    noise_density: Annotated[float, more_than(0), less_than(1)] = 0.15
    mean_span: Annotated[float, at_least(1)] = 3.0

    def __post_init__(self) -> None:
        check_fields(self)

    def most_spans(self, length: int) -> int:
        """Return the most spans that a sequence of up to ``length`` tokens can have, with one divided by the roll."""
        return int(self._counts(np.arange(2, max(length, 2) + 1))[1].max()) + 1

    def _counts(self, lengths: Int[np.ndarray, " b"]) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Return the number of masked tokens and the number of spans of each length."""
        noise = np.clip(np.rint(lengths * self.noise_density).astype(np.int64), 1, lengths - 1)
        spans = np.maximum(np.rint(noise / self.mean_span).astype(np.int64), 1)
        return noise, np.minimum(spans, lengths - noise)

    def noise_mask(self, lengths: Int[np.ndarray, " b"], width: int, random: RowRandom) -> Bool[np.ndarray, "b width"]:
        """Draw which tokens are masked.

        Masked and kept stretches alternate. Then each row is rolled by a random distance, so that any token can be
        masked, also the docid in front.

        Args:
            lengths: Tokens of each row, at least 2.
            width: Columns to return.
            random: Random numbers of the rows.
        """
        noise, spans = self._counts(lengths)
        masked = _random_lengths(noise, spans, random, _NOISE)
        kept = _random_lengths(lengths - noise, spans, random, _REST)
        ends = np.cumsum(np.stack([kept, masked], axis=2).reshape(len(lengths), -1), axis=1)
        columns = np.arange(width)
        before_roll = (columns - random.below(_ROLL, lengths)[:, None]) % lengths[:, None]
        return ((ends[:, None] <= before_roll[..., None]).sum(2) % 2 == 1) & (columns < lengths[:, None])

    def corrupt(
        self, tokens: Int32[np.ndarray, "b l"], random: RowRandom, *, sentinel: int, target_length: int
    ) -> tuple[Int32[np.ndarray, "b l"], Int32[np.ndarray, "b m"]]:
        """Mask spans of sequences.

        Args:
            tokens: Sequences padded with 0, at least 2 tokens each.
            random: Random numbers of the rows.
            sentinel: The first sentinel; the others have the numbers below it.
            target_length: Columns of the targets; longer ones are cut.

        Returns:
            The sequences with one sentinel for each span; and the spans, each after its sentinel, followed by one more
            sentinel and EOS.
        """
        lengths = (tokens != PAD).sum(1)
        mask = self.noise_mask(lengths, tokens.shape[1], random)
        begins = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
        span = np.cumsum(begins, axis=1)
        sentinels = (sentinel + 1 - span).astype(np.int32)
        shown = (tokens != PAD) & (begins | ~mask)
        inputs = pack_rows(np.where(begins, sentinels, tokens), shown, tokens.shape[1], PAD)
        # Each token is a pair (sentinel, token): the first is kept where a span begins, the second where it is masked.
        pairs = np.stack([sentinels, tokens], axis=2).reshape(len(tokens), -1)
        chosen = np.stack([begins, mask], axis=2).reshape(len(tokens), -1)
        last = (sentinel - span[:, -1:]).astype(np.int32)
        pairs = np.concatenate([pairs, last, np.full_like(last, EOS)], axis=1)
        chosen = np.concatenate([chosen, np.ones((len(tokens), 2), bool)], axis=1)
        return inputs, pack_rows(pairs, chosen, target_length, PAD)


def _random_lengths(
    items: Int[np.ndarray, " b"], segments: Int[np.ndarray, " b"], random: RowRandom, stream: int
) -> Int[np.ndarray, "b s"]:
    """Divide the items of each row into segments of at least one item; all divisions are equally likely."""
    columns = np.arange(int(items.max()))
    chances = random.uniforms(stream, len(columns))
    chances = np.where((columns >= 1) & (columns < items[:, None]), chances, 2.0)  # item 0 begins the first part
    rank = np.argsort(np.argsort(chances, axis=1), axis=1)
    part = np.cumsum(rank < (segments - 1)[:, None], axis=1)
    part = np.where(columns < items[:, None], part, -1)
    return (part[..., None] == np.arange(int(segments.max()))).sum(1)
