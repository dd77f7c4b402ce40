"""The network: T5, its output heads, and starts and conversions of its parameters."""

from genret_jax.models.config import T5Config
from genret_jax.models.heads import IMPOSSIBLE, NodeTree
from genret_jax.models.network import T5, with_nodes

__all__ = ["IMPOSSIBLE", "T5", "NodeTree", "T5Config", "with_nodes"]
