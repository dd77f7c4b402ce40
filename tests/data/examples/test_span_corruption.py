"""Span corruption against T5's own definition."""

import numpy as np
import pytest

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.span_corruption import SpanCorruption
from genret_jax.errors import InputError

SENTINEL = 999


def padded(lengths: list[int], width: int) -> np.ndarray:
    """Rows of distinct tokens 10, 11, ..."""
    columns = np.arange(width)
    return np.where(columns < np.array(lengths)[:, None], columns + 10, 0).astype(np.int32)


def spans_filled_in(inputs: list[int], targets: list[int]) -> list[int]:
    """Put the targets' spans where the inputs' sentinels stand."""
    spans: dict[int, list[int]] = {}
    for token in targets[:-1]:  # without EOS
        if token > 900:
            spans[token] = []
            current = spans[token]
        else:
            current.append(token)
    assert spans.pop(min(spans)) == []  # the last sentinel ends the targets
    return [token for i in inputs for token in (spans[i] if i > 900 else [i])]


@pytest.mark.parametrize("noise", [SpanCorruption(), SpanCorruption(noise_density=0.5, mean_span=2.0)])
def test_inputs_and_targets_make_the_sequence_again(noise: SpanCorruption) -> None:
    tokens = padded([2, 3, 5, 9, 17, 24, 30, 30] * 20, 30)
    random = RowRandom(0, 0, np.arange(len(tokens)))
    inputs, targets = noise.corrupt(tokens, random, sentinel=SENTINEL, target_length=40)
    for row, shown, asked in zip(tokens.tolist(), inputs.tolist(), targets.tolist(), strict=True):
        shown, asked = [t for t in shown if t], [t for t in asked if t]
        assert asked[-1] == 1
        assert spans_filled_in(shown, asked) == [t for t in row if t]
        sentinels = [t for t in shown if t > 900]
        assert sentinels == [SENTINEL - i for i in range(len(sentinels))]
        assert [t for t in asked if t > 900] == [SENTINEL - i for i in range(len(sentinels) + 1)]


def test_density_and_spans_are_those_asked_for() -> None:
    noise = SpanCorruption(noise_density=0.15, mean_span=3.0)
    lengths = np.full(500, 100)
    mask = noise.noise_mask(lengths, 110, RowRandom(0, 0, np.arange(500)))
    assert (mask.sum(1) == 15).all()
    assert not mask[:, 100:].any()
    begins = mask[:, :100] & ~np.roll(mask[:, :100], 1, axis=1)
    assert (begins.sum(1) == 5).all()  # 15 tokens in spans of mean 3, seen around the end
    share = mask[:, :100].mean(0)  # rolled: no place is spared, not even the docid in front
    assert share.min() > 0.08
    assert share.max() < 0.23


def test_span_lengths_follow_t5s_random_segmentation() -> None:
    # 6 masked tokens in 2 spans: T5 divides them (1, 5), (2, 4), ... (5, 1), all alike likely.
    noise = SpanCorruption(noise_density=0.3, mean_span=3.0)
    mask = noise.noise_mask(np.full(4000, 20), 20, RowRandom(1, 0, np.arange(4000)))
    longest = []
    for row in mask:
        rolled = np.roll(row, -int(np.flatnonzero(~row & np.roll(row, 1))[0]))  # begins after a span
        runs = "".join(map(str, rolled.astype(int))).split("0")
        longest.append(max(map(len, runs)))
    counts = np.bincount(longest, minlength=6)[3:6] / 4000
    np.testing.assert_allclose(counts, [0.2, 0.4, 0.4], atol=0.03)


@pytest.mark.parametrize("density", [0.05, 0.15, 0.5, 0.9])
def test_most_spans_bounds_what_comes_out(density: float) -> None:
    noise = SpanCorruption(noise_density=density, mean_span=1.5)
    tokens = padded(list(range(2, 30)) * 30, 30)
    inputs, _ = noise.corrupt(tokens, RowRandom(0, 0, np.arange(len(tokens))), sentinel=SENTINEL, target_length=60)
    assert (inputs > 900).sum(1).max() <= noise.most_spans(30)


def test_long_targets_are_cut() -> None:
    noise = SpanCorruption(noise_density=0.5)
    _, targets = noise.corrupt(padded([20], 20), RowRandom(0, 0, np.arange(1)), sentinel=SENTINEL, target_length=4)
    assert targets.shape == (1, 4)
    assert (targets > 1).all()


def test_wrong_noise() -> None:
    with pytest.raises(InputError, match=r"noise_density is 1.5"):
        SpanCorruption(noise_density=1.5)
    with pytest.raises(InputError, match=r"mean_span is 0.5"):
        SpanCorruption(mean_span=0.5)
