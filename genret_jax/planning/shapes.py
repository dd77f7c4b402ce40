"""Shapes with a place on a mesh, which stand for arrays where nothing is computed."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def shapes_on(mesh: Mesh, tree: Any, *spec: str | None) -> Any:
    """Return the shapes of a tree of arrays, placed on a mesh: everywhere, or spread as ``spec`` says."""
    where = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def bytes_on_a_device(tree: Any) -> int:
    """Return the bytes that a tree of arrays, or of placed shapes, has on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
