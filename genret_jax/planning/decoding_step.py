"""The constrained search of an experiment, encoder included, compiled from shapes."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genret_jax.decoding import DocidIndex, TrieConstraint
from genret_jax.inference.model_search import search_tokens
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import random_variables
from genret_jax.parallel.mesh import DATA, logical_axes, param_shardings, placed_on
from genret_jax.planning.counting import Counts, count
from genret_jax.planning.devices import Device
from genret_jax.planning.index_shapes import written_out
from genret_jax.planning.shapes import shapes_on


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingPlan:
    """What a batch of searches is made of.

    Attributes:
        index: Shapes of the docid index.
        tree: Shapes of the prefix head's tree, or None.
        mesh: Where it is to run: parameters as in training, queries spread over the data axis, the index everywhere.
        device: What the mesh is made of.
        queries: Searched together.
        length: Tokens of a query.
        beams: Of the search.
    """

    index: DocidIndex
    tree: NodeTree | None
    mesh: Mesh
    device: Device
    queries: int
    length: int
    beams: int

    def parameters(self, model: T5Config) -> Any:
        """Return the shapes and places of a network's parameters."""
        variables: Any = jax.eval_shape(functools.partial(random_variables, model), jax.random.key(0), self.tree)
        params = variables["params"]
        places = param_shardings(self.mesh, params, logical_axes(variables))
        return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), params, places)

    def lower(self, model: T5Config, index: DocidIndex) -> Any:
        """Return the search with a network, traced and ready to be compiled."""
        tokens = jax.ShapeDtypeStruct((self.queries, self.length), np.int32)
        params = self.parameters(model)
        with placed_on(self.mesh):
            return search_tokens.lower(
                params,
                shapes_on(self.mesh, tokens, DATA),
                TrieConstraint(shapes_on(self.mesh, index)),
                shapes_on(self.mesh, self.tree),
                model,
                self.beams,
            )

    def count(self, model: T5Config) -> Counts:
        """Compile the search as it is, and written out depth after depth for what the compiler counts once a loop."""
        devices = self.mesh.size
        found = count(self.lower(model, self.index), self.device, devices)
        whole = count(self.lower(model, written_out(self.index)), self.device, devices)
        return {name: whole[name] if not name.startswith("bytes/") else value for name, value in found.items()}
