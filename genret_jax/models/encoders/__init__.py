"""Encoders that turn input tokens into the vectors that the decoder attends to.

An encoder is a Flax module that is called as ``encoder(tokens, deterministic, histories)``: int tokens ``[b, t]``
(0 is padding), whether dropout is off, and for packed histories the history of each item. It returns vectors
``[b, l, d_model]``; those at padding may hold anything, since the decoder hides them.
"""
