"""Corpora in, vocabularies, document vectors, and the example store."""
