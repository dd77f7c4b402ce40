"""Evaluation: TREC files, metrics with bootstrap intervals, comparisons, reports and curves."""
