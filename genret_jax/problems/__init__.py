"""Problems: what differs between searching documents and recommending items, behind one protocol."""

from genret_jax.problems.problem import History, Measured, Problem, Requests, Setup, make, say

__all__ = ["History", "Measured", "Problem", "Requests", "Setup", "make", "say"]
