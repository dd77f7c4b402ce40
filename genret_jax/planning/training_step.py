"""The training step of an experiment, compiled from shapes."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal
from jax.sharding import Mesh

from genret_jax.config.experiment import Experiment
from genret_jax.models.config import T5Config
from genret_jax.parallel.mesh import DATA, MODEL, placed_on
from genret_jax.planning.docid_shapes import PlannedDocids
from genret_jax.planning.index_shapes import tree_shapes
from genret_jax.planning.shapes import shapes_on
from genret_jax.training.retrieval_task import RetrievalTask
from genret_jax.training.step import StepShapes, plan_steps


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What the training step of an experiment is made of.

    Attributes:
        experiment: The choices.
        docids: Planned for the corpus.
        mesh: Where it is to run.
    """

    experiment: Experiment
    docids: PlannedDocids
    mesh: Mesh

    def task(self, model: T5Config) -> RetrievalTask:
        """Return the task of a network of these docids."""
        tree = tree_shapes(self.docids) if model.head == "prefix" else None
        experiment = self.experiment
        return RetrievalTask(model, None, tree, **experiment.losses)

    @property
    def target_length(self) -> int:
        """Decoder tokens of an example."""
        sampler = self.experiment.sampler
        if not sampler.decoder_writes_text:
            return self.docids.length
        return max(self.docids.length, sampler.target_length or sampler.input_length)

    def batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of a batch, as the sampler makes it."""
        names = ("decoder_target_tokens", "decoder_input_tokens", "decoder_prefix_nodes")
        shapes = {name: jax.ShapeDtypeStruct((rows, self.target_length), np.int32) for name in names}
        shapes["decoder_loss_weights"] = jax.ShapeDtypeStruct((rows, self.target_length), np.float32)
        shapes["encoder_input_tokens"] = jax.ShapeDtypeStruct((rows, self.experiment.sampler.input_length), np.int32)
        return {**shapes, "document": jax.ShapeDtypeStruct((rows,), np.int32)}

    def steps(self, model: T5Config) -> StepShapes:
        """Return the steps and the state of a network."""
        trainer = self.experiment.trainer
        return plan_steps(self.task(model), trainer, self.mesh, self.batch(trainer.batch_size))

    def lower(self, model: T5Config) -> Any:
        """Return the training step of a network, traced and ready to be compiled."""
        steps: Any = self.steps(model)
        batch = self.batch(self.experiment.trainer.batch_size)
        stacked = {name: jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype) for name, shape in batch.items()}
        with placed_on(self.mesh):
            return steps.run_steps.lower(
                steps.like,
                shapes_on(self.mesh, stacked, None, DATA),
                shapes_on(self.mesh, jax.ShapeDtypeStruct((), np.int32)),
                shapes_on(self.mesh, self.task(model).arrays),
            )

    def kept_activations(self, model: T5Config) -> int:
        """Return the bytes that a device keeps from the forward to the backward pass, as differentiation has it.

        They are those of the device's share of the network with the device's rows. The compiler keeps fewer where it
        fuses or computes again, and they are part of its temporaries.
        """
        trainer = self.experiment.trainer
        rows = math.ceil(trainer.batch_size / self.mesh.shape[DATA] / trainer.gradient_accumulation)
        task = self.task(_share(model, self.mesh.shape[MODEL]))
        if task.tree is not None and task.tree.rows_are_logits:  # the root's children are divided as well
            of_device = task.model.config.output_vocab_size - task.tree.root_first_token
            task.tree = dataclasses.replace(task.tree, fanouts=(min(task.tree.root_fanout, of_device),))
        # What does not grow with the rows is made of parameters, which are there anyhow.
        return rows * (self._residuals(task, 2) - self._residuals(task, 1))

    def _residuals(self, task: RetrievalTask, rows: int) -> int:
        """Return the bytes of all arrays that the backward pass takes from the forward pass of some rows."""

        def backward(params: Any, batch: Any, key: Any) -> Any:
            return jax.vjp(lambda p: task.loss(p, batch, key)[0], params)[1]

        key = jax.random.key(0)
        params = jax.eval_shape(task.init, key)["params"]
        jaxpr = jax.make_jaxpr(backward)(params, {**self.batch(rows), **task.arrays}, key).jaxpr
        kept = {variable: variable.aval for variable in jaxpr.outvars if not isinstance(variable, Literal)}
        return sum(aval.size * aval.dtype.itemsize for aval in kept.values())


def _share(model: T5Config, parts: int) -> T5Config:
    """Return what a device has of a network that is split over the model axis; the residual stream stays whole."""
    own_vocabulary = model.decoder_vocab_size
    atomic = model.num_nodes == own_vocabulary  # rows and logits are the same
    return dataclasses.replace(
        model,
        num_nodes=math.ceil(model.num_nodes / parts) if atomic else model.num_nodes,
        num_heads=math.ceil(model.num_heads / parts),
        d_ff=math.ceil(model.d_ff / parts),
        vocab_size=math.ceil(model.vocab_size / parts),
        decoder_vocab_size=None if own_vocabulary is None else math.ceil(own_vocabulary / parts),
    )
