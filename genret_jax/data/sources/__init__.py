"""Importers: public datasets as corpora and interactions."""
