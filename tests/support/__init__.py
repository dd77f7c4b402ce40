"""Fake models, brute-force oracles and tiny data for tests, of this package and of code that builds on it."""
