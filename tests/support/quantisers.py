"""Quantisers fitted to vectors alone."""


def fit_quantiser(strategy, vectors, seed=0):
    """Return the quantiser that a strategy fits to vectors."""
    names = [f"d{number}" for number in range(len(vectors))]
    return strategy.fit_and_assign(names, vectors, seed, "")[0]
