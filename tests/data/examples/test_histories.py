"""How a history becomes tokens, and which items training must not see."""

import numpy as np
import pytest

from genret_jax.data.examples.histories import HistoryConfig, cold_items, history_tokens
from genret_jax.errors import InputError


def test_tokens_of_histories():
    item_tokens = np.array([[2, 5, 9], [3, 6, 0], [4, 7, 8]], np.int32)
    tokens = history_tokens(np.array([[0, 1], [2, -1]]), item_tokens, np.array([20, 0]))
    assert tokens.tolist() == [[20, 2, 5, 9, 3, 6, 0], [0, 4, 7, 8, 0, 0, 0]]
    assert history_tokens(np.array([[1]]), item_tokens, None).tolist() == [[3, 6, 0]]


def test_users_are_hashed_alike_everywhere():
    numbers = HistoryConfig(user_tokens=2000).user_numbers(["u1", "u2", "ü"])
    assert numbers.tolist() == [130, 1114, 1525]
    assert HistoryConfig(user_tokens=5).user_numbers([str(user) for user in range(100)]).max() == 4


def test_held_out_items_are_a_share_of_all():
    assert cold_items(200, 0.05).sum() == 10
    assert 0 < cold_items(200, 0.5)[:100].sum() < 100
    assert (cold_items(200, 0.05) <= cold_items(200, 0.1)).all()
    assert not cold_items(200, 0.0).any()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"items": 0}, "HistoryConfig.items is 0"),
        ({"user_tokens": -1}, "HistoryConfig.user_tokens is -1"),
        ({"user_tokens": 0, "user_drop": 0.1}, "HistoryConfig.user_drop is 0.1"),
        ({"user_drop": 1.0}, "HistoryConfig.user_drop is 1.0"),
        ({"causal": True, "user_tokens": 0}, "HistoryConfig.causal is True"),
        ({"causal": True, "positions": "items"}, "HistoryConfig.causal is True"),
    ],
)
def test_settings_that_cannot_be(fields, says):
    with pytest.raises(InputError, match=says):
        HistoryConfig(**fields)
