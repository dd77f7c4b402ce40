"""What a user would pick instead of a generative index, on the same data.

For documents BM25 and a dual encoder; for items popularity, item neighbours and SASRec.
"""
