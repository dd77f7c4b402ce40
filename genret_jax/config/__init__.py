"""Experiments as values, and the gin files that describe them."""
