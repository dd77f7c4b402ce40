"""Baselines to compare a generative index with, on the same data.

BM25 and a dual encoder for documents; popularity, item neighbours and SASRec for items.
"""
