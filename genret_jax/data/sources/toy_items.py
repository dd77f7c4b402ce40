"""A made-up shop with made-up customers: small, the same for the same seed, and possible to learn.

Both inputs of a generative recommender carry signal. Texts: title, brand and category of an item are words, and
customers prefer some categories. Histories: the items of a category are bought in a fixed circular order, so the last
item predicts the next one far better than popularity does.
"""

import itertools

import numpy as np
from jaxtyping import Float64, Int64

from genret_jax.data.corpus import Corpus
from genret_jax.data.interactions import Interactions
from genret_jax.data.sources.importing import item_text
from genret_jax.errors import InputError

_CATEGORIES = {
    "Coffee": ("espresso beans", "filter papers", "milk frother", "pour-over kettle", "burr grinder", "travel mug"),
    "Cycling": ("inner tube", "chain oil", "bell", "rear light", "puncture kit", "bottle cage"),
    "Gardening": ("seed tray", "trowel", "compost", "watering can", "pruning shears", "plant labels"),
    "Painting": ("brush set", "acrylic tube", "canvas board", "palette knife", "easel", "varnish"),
    "Climbing": ("chalk bag", "quickdraw", "belay device", "rope bag", "climbing tape", "helmet"),
    "Baking": ("proofing basket", "dough scraper", "rye flour", "loaf tin", "baking stone", "oven thermometer"),
}
_BRANDS = ("Alder", "Birk", "Cedrus", "Dorn", "Elm & Co", "Fjell", "Grove", "Hazel")
_SIZES = ("small", "medium", "large", "extra large")
# Probabilities that a customer takes the next item of the circle, or any item of the same category; else any item.
_NEXT, _SAME = 0.65, 0.25


def toy_items(*, users: int = 300, items: int = 120, seed: int = 0) -> Interactions:
    """Make items and histories of 5 to 20 items.

    Args:
        users: Number of users, at least 1.
        items: Number of items, from 12 to 144.
        seed: Seed, at least 0; each gives another shop.

    Raises:
        InputError: If a number is out of range.
    """
    most = sum(map(len, _CATEGORIES.values())) * len(_SIZES)
    if users < 1 or not 2 * len(_CATEGORIES) <= items <= most or seed < 0:
        raise InputError(
            f"{users} users, {items} items and seed {seed}",
            expected=f"at least 1 user, {2 * len(_CATEGORIES)} to {most} items, and a seed of at least 0",
            fix="change the numbers",
        )
    rng = np.random.default_rng(seed)
    corpus = _make_items(items, rng)
    category = np.arange(items) % len(_CATEGORIES)
    popularity = 1.0 / rng.permutation(np.arange(1, items + 1)) ** 0.5
    histories = [_make_history(category, popularity, rng) for _ in range(users)]
    user_ids = [f"u{number}" for number in range(users)]
    return Interactions.of(corpus, user_ids, list(map(len, histories)), np.concatenate(histories))


def _make_items(items: int, rng: np.random.Generator) -> Corpus:
    """Make the items; item i is of category i modulo the number of categories."""
    texts = []
    products = {name: itertools.product(_SIZES, kinds) for name, kinds in _CATEGORIES.items()}
    for name in itertools.islice(itertools.cycle(_CATEGORIES), items):
        size, kind = next(products[name])
        brand = _BRANDS[rng.integers(len(_BRANDS))]
        texts.append(item_text(f"{brand} {kind}, {size}", {"Brand": brand, "Categories": [name]}))
    return Corpus(
        name="toy-items",
        doc_ids=tuple(f"i{number}" for number in range(items)),
        titles=tuple(text.title for text in texts),
        texts=tuple(text.text for text in texts),
        source="toy-items",
    )


def _make_history(
    category: Int64[np.ndarray, " i"], popularity: Float64[np.ndarray, " i"], rng: np.random.Generator
) -> Int64[np.ndarray, " l"]:
    """Draw the history of one customer, who buys no item twice."""
    categories = len(_CATEGORIES)
    taste = rng.dirichlet(np.full(categories, 0.3)) + 1e-3
    left = popularity.copy()
    history: list[int] = []
    for _ in range(rng.integers(5, min(20, len(category)) + 1)):
        weights = left * taste[category]
        if history:
            last, chance = history[-1], rng.random()
            following = last + categories if last + categories < len(category) else int(category[last])
            if chance < _NEXT and left[following]:
                weights = np.eye(1, len(category), following)[0]
            elif chance < _NEXT + _SAME and left[category == category[last]].any():
                weights = left * (category == category[last])
        history.append(int(rng.choice(len(category), p=weights / weights.sum())))
        left[history[-1]] = 0.0
    return np.asarray(history, np.int64)
