"""Docid strategies, one a file."""
