"""The made-up shop: the same for the same seed, and worth learning."""

import warnings

import numpy as np
import pytest
from support.small_interactions import small_shop, three_users

from genret_jax.data.interactions import read_interactions, write_interactions
from genret_jax.data.sources.toy_items import toy_items
from genret_jax.errors import InputError


def hits_at_10(scores, shop):
    """Share of users whose test item is among the ten best that they do not have yet; scores of one row a user."""
    known = shop.histories("test", int(shop.lengths.max()))
    for user, items in enumerate(known):
        scores[user, items[items >= 0]] = -np.inf
    target = shop.item[shop.targets("test")]
    better = (scores > scores[np.arange(len(target)), target][:, None]).sum(axis=1)
    return float((better < 10).mean())


def last_known(shop):
    return shop.item[shop.targets("test") - 1]


def transitions(shop):
    """Count what follows what in the parts for training."""
    counts = np.zeros((len(shop.items), len(shop.items)))
    for begin, end in zip(shop.offsets[:-1], shop.training_ends(), strict=True):
        np.add.at(counts, (shop.item[begin : end - 1], shop.item[begin + 1 : end]), 1)
    return counts


def test_what_came_last_tells_more_than_popularity():
    shop = toy_items()
    counts = transitions(shop)
    popularity = counts.sum(axis=0)
    by_popularity = hits_at_10(np.tile(popularity, (shop.num_users, 1)), shop)
    by_last_item = hits_at_10(counts[last_known(shop)] + 1e-6 * popularity, shop)
    assert by_popularity < 0.35
    assert by_last_item > 0.6
    assert by_last_item > 2 * by_popularity


def test_texts_tell_what_belongs_together():
    """The words of the last item alone, by how many of them an item shares, find more than popularity."""
    shop = toy_items()
    words = [set(text.replace(".", "").split()) for text in shop.items.texts]
    shared = np.array([[float(len(a & b)) for b in words] for a in words])
    popularity = transitions(shop).sum(axis=0)
    by_popularity = hits_at_10(np.tile(popularity, (shop.num_users, 1)), shop)
    assert hits_at_10(shared[last_known(shop)] + 1e-6 * popularity, shop) > 1.5 * by_popularity


def test_a_seed_makes_one_shop():
    assert toy_items().fingerprint == toy_items().fingerprint
    assert toy_items().fingerprint != toy_items(seed=1).fingerprint
    assert small_shop().fingerprint != small_shop(1).fingerprint


@pytest.mark.parametrize(("users", "items"), [(300, 120), (1, 12), (40, 144)])
def test_the_shop_reads_back_without_a_warning(users, items, tmp_path):
    shop = toy_items(users=users, items=items)
    assert (shop.num_users, len(shop.items)) == (users, items)
    assert shop.lengths.min() >= 5
    assert len(set(shop.items.titles)) == items
    write_interactions(shop, tmp_path / "shop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_interactions(tmp_path / "shop").fingerprint == shop.fingerprint


@pytest.mark.parametrize(("users", "items", "seed"), [(0, 120, 0), (10, 11, 0), (10, 145, 0), (10, 120, -1)])
def test_numbers_out_of_range_are_refused(users, items, seed):
    found = f"{users} users, {items} items and seed {seed}; expected at least 1 user, 12 to 144 items"
    with pytest.raises(InputError, match=found):
        toy_items(users=users, items=items, seed=seed)


def test_three_users_are_read_at_a_glance():
    users = three_users()
    assert ["".join(users.items.doc_ids[i] for i in users.history(n)) for n in range(3)] == ["abcd", "cae", "ba"]
