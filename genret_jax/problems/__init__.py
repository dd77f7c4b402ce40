"""Problems: what differs between searching documents and recommending items, behind one protocol."""

from genret_jax.problems.parts import make
from genret_jax.problems.problem import Problem, Setup, say
from genret_jax.problems.requests import History, Measured, Requests

__all__ = ["History", "Measured", "Problem", "Requests", "Setup", "make", "say"]
