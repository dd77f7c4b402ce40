"""The training step and the constrained search of an experiment, compiled from shapes without any data."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import numpy as np
from jax.extend.core import Literal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.config.experiment import Experiment
from genret_jax.decoding import DocidIndex, TrieConstraint
from genret_jax.inference import search_tokens
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import random_variables
from genret_jax.models.query import source_tokens
from genret_jax.parallel.mesh import DATA, MODEL, logical_axes, param_shardings, placed_on
from genret_jax.planning.counting import Counts, count
from genret_jax.planning.devices import Device
from genret_jax.planning.docids import PlannedDocids, training_tree_shapes, tree_shapes, written_out
from genret_jax.planning.tables import docids_in_training, plan_tables
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.encoded_pool import STATES
from genret_jax.training.left_out import BIAS, TERMS, VECTORS
from genret_jax.training.step import StepShapes, TrainState, plan_steps


def shapes_on(mesh: Mesh, tree: Any, *spec: str | None) -> Any:
    """Return the shapes of a tree of arrays, placed on a mesh: on every device, or spread by a partition ``spec``."""
    where = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def bytes_on_a_device(tree: Any) -> int:
    """Return the bytes that a tree of arrays, or of placed shapes, occupies on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The training step of an experiment.

    Attributes:
        experiment: The experiment.
        docids: The planned docids of its corpus.
        mesh: Mesh to run on.
        device: Device that the mesh consists of.
    """

    name: ClassVar[str] = "training step"

    experiment: Experiment
    docids: PlannedDocids
    mesh: Mesh
    device: Device

    @property
    def model(self) -> T5Config:
        """The network that is trained."""
        return self.docids.model

    @functools.cached_property
    def like(self) -> TrainState:
        """The placed shapes of the training state."""
        return self.steps(self.model).like

    def bytes_held(self) -> dict[str, int]:
        """Return the bytes on each device of what lasts between steps, and of the activations that a step keeps."""
        held = {"parameters": self.like.params, "optimizer": self.like.optimizer_state, "average": self.like.average}
        sizes = {name: bytes_on_a_device(part) for name, part in held.items() if part is not None}
        if (plan := docids_in_training(self.docids)) is not None:
            sizes["plan"] = bytes_on_a_device(shapes_on(self.mesh, plan))
        return {**sizes, "activations_kept_by_differentiation": self.kept_activations(self.model)}

    def task(self, model: T5Config) -> RetrievalTask:
        """Return the training task for a network."""
        plan = docids_in_training(self.docids)
        tree = training_tree_shapes(self.docids) if plan is not None or model.head == "prefix" else None
        return RetrievalTask(model, None, tree, plan=plan, **self.experiment.losses)

    @property
    def target_length(self) -> int:
        """Number of decoder tokens of an example."""
        sampler = self.experiment.sampler
        if not sampler.decoder_writes_text:
            return self.docids.length
        return max(self.docids.length, sampler.target_length or sampler.input_length)

    def batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of a batch as the sampler makes it."""
        names = ("decoder_target_tokens", "decoder_input_tokens", "decoder_prefix_nodes")
        shapes = {name: jax.ShapeDtypeStruct((rows, self.target_length), np.int32) for name in names}
        shapes["decoder_loss_weights"] = jax.ShapeDtypeStruct((rows, self.target_length), np.float32)
        model, length = self.model, self.experiment.sampler.input_length
        inputs = jax.ShapeDtypeStruct((rows, length + model.plan_terms), np.int32)
        shapes["encoder_input_tokens"] = inputs
        shapes |= {name: jax.ShapeDtypeStruct((rows,), np.int32) for name in ("document", "query", "docid_row")}
        if self.experiment.pool:
            states = jax.eval_shape(functools.partial(source_tokens, model), inputs).shape[1]
            shapes[STATES] = jax.ShapeDtypeStruct((rows, states, model.d_model), np.float16)
        if model.plan_terms:  # what documents know from training queries is left out
            shapes[TERMS] = jax.ShapeDtypeStruct((rows, model.plan_terms), np.float32)
            shapes[BIAS] = jax.ShapeDtypeStruct((rows,), np.float32)
            if model.plan is not None and model.plan.dense:
                shapes[VECTORS] = jax.ShapeDtypeStruct((rows, model.d_model), np.float16)
        return shapes

    def steps(self, model: T5Config) -> StepShapes:
        """Return the training steps of a network and the shapes of its training state."""
        trainer = self.experiment.trainer
        return plan_steps(self.task(model), trainer, self.mesh, self.batch(trainer.batch_size))

    def trace(self, model: T5Config) -> Any:
        """Return the traced training step of a network, ready to be compiled."""
        steps: Any = self.steps(model)
        batch = self.batch(self.experiment.trainer.batch_size)
        stacked = {name: jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype) for name, shape in batch.items()}
        with placed_on(self.mesh):
            return steps.run_steps.trace(
                steps.like,
                shapes_on(self.mesh, stacked, None, DATA),
                shapes_on(self.mesh, jax.ShapeDtypeStruct((), np.int32)),
                shapes_on(self.mesh, self.task(model).arrays),
            )

    def count(self, model: T5Config) -> Counts:
        """Compile the training step of a network and count it."""
        # The compiler counts the loop over the parts of a batch once; the update is counted too often then.
        parts = self.experiment.trainer.gradient_accumulation
        counts = count(self.trace(model), self.device, self.mesh.size)
        whole = {name for name in counts if name.startswith("bytes/")} | {"products"}
        return {name: value if name in whole else parts * value for name, value in counts.items()}

    def kept_activations(self, model: T5Config) -> int:
        """Return the bytes of activations that differentiation keeps on a device from forward to backward pass.

        They are computed for the device's share of the network and of the rows. They are part of the temporaries that
        the compiler reports, which are fewer where it fuses or recomputes.
        """
        trainer = self.experiment.trainer
        rows = math.ceil(trainer.batch_size / self.mesh.shape[DATA] / trainer.gradient_accumulation)
        task = self.task(_share(model, self.mesh.shape[MODEL]))
        if task.tree is not None and task.tree.rows_are_logits:  # the root's children are split like the logits
            of_device = task.model.config.output_vocab_size - task.tree.root_first_token
            task.tree = dataclasses.replace(task.tree, fanouts=(min(task.tree.root_fanout, of_device),))
        # The difference leaves out what does not grow with the rows: it consists of parameters, counted elsewhere.
        return rows * (self._residuals(task, 2) - self._residuals(task, 1))

    def _residuals(self, task: RetrievalTask, rows: int) -> int:
        """Return the bytes of all arrays that the backward pass takes from the forward pass."""

        def backward(params: Any, batch: Any, key: Any) -> Any:
            return jax.vjp(lambda p: task.loss(p, batch, key)[0], params)[1]

        key = jax.random.key(0)
        params = jax.eval_shape(task.init, key)["params"]
        jaxpr = jax.make_jaxpr(backward)(params, {**self.batch(rows), **task.arrays}, key).jaxpr
        kept = {variable: variable.aval for variable in jaxpr.outvars if not isinstance(variable, Literal)}
        return sum(aval.size * aval.dtype.itemsize for aval in kept.values())


def _share(model: T5Config, parts: int) -> T5Config:
    """Return the part of a network that one device of the model axis holds; the residual stream is not split."""
    own_vocabulary, encoder = model.decoder_vocab_size, model.encoder
    if encoder is not None and encoder.num_heads % parts == 0:
        heads = encoder.num_heads // parts
        encoder = dataclasses.replace(encoder, num_heads=heads, d_ff=math.ceil(encoder.d_ff / parts))
    atomic = model.num_nodes == own_vocabulary  # nodes are logits, which are split
    return dataclasses.replace(
        model,
        num_nodes=math.ceil(model.num_nodes / parts) if atomic else model.num_nodes,
        encoder=encoder,
        num_heads=math.ceil(model.num_heads / parts),
        d_ff=math.ceil(model.d_ff / parts),
        vocab_size=math.ceil(model.vocab_size / parts),
        decoder_vocab_size=None if own_vocabulary is None else math.ceil(own_vocabulary / parts),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingPlan:
    """A constrained search for a batch of queries, encoder included.

    Attributes:
        docids: The planned docids.
        index: Shapes of their index.
        mesh: Mesh to run on: parameters lie as in training, queries are spread over the data axis, and every device
            holds the whole index.
        device: Device that the mesh consists of.
        queries: Number of queries searched together.
        length: Number of tokens of a query, without the terms that a plan reads.
        beams: Number of beams.
    """

    name: ClassVar[str] = "constrained search"

    docids: PlannedDocids
    index: DocidIndex
    mesh: Mesh
    device: Device
    queries: int
    length: int
    beams: int

    @property
    def model(self) -> T5Config:
        """The network that is searched with."""
        return self.docids.searched

    @functools.cached_property
    def tree(self) -> NodeTree | None:
        """Shapes of the prefix head's tree; None for T5's head."""
        return tree_shapes(self.docids)

    def bytes_held(self) -> dict[str, int]:
        """Return the bytes on each device of what lasts between searches."""
        sizes = {"parameters": bytes_on_a_device(self.parameters(self.model)), "index": self.index.num_bytes}
        tables = plan_tables(self.docids)
        return sizes if tables is None else {**sizes, "plan": tables.num_bytes}

    def parameters(self, model: T5Config) -> Any:
        """Return the placed shapes of a network's parameters."""
        variables: Any = jax.eval_shape(functools.partial(random_variables, model), jax.random.key(0), self.tree)
        params = variables["params"]
        places = param_shardings(self.mesh, params, logical_axes(variables))
        return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), params, places)

    def trace(self, model: T5Config, index: DocidIndex) -> Any:
        """Return the traced search of a network, ready to be compiled."""
        tokens = jax.ShapeDtypeStruct((self.queries, self.length + model.plan_terms), np.int32)
        with placed_on(self.mesh):
            return search_tokens.trace(
                self.parameters(model),
                shapes_on(self.mesh, tokens, DATA),
                TrieConstraint(shapes_on(self.mesh, index)),
                shapes_on(self.mesh, self.tree),
                model,
                self.beams,
                shapes_on(self.mesh, plan_tables(self.docids)),
            )

    def count(self, model: T5Config) -> Counts:
        """Compile the search as it is for its memory, and without loops over depths for all other counts."""
        found, whole = (
            count(self.trace(model, index), self.device, self.mesh.size)
            for index in (self.index, written_out(self.index))
        )
        return {name: value if name.startswith("bytes/") else whole[name] for name, value in found.items()}
