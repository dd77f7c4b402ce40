"""The settings of a training run, apart from its task."""

import dataclasses
from typing import Annotated, Literal

from genret_jax.training.optimizers import AdamW, Optimizer
from genret_jax.validation import at_least, check_fields, from_to, less_than, more_than, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length of a run, size of its batches, mesh of devices, and when to log, evaluate and save.

    Attributes:
        steps: Updates in the whole run; a resumed run goes on to this number.
        batch_size: Rows in the task's batches, over all devices.
        gradient_accumulation: Parts in which a batch is computed, one after the other, to save memory; the update is
            that of the whole batch.
        optimizer: ``AdamW(...)`` or ``Adafactor(...)``, with its schedule.
        clip_norm: Largest global norm of the gradient; None does not clip.
        average_decay: Decay of an exponential moving average of the parameters, which evaluators then get and
            ``restore_params`` returns; None keeps no average.
        seed: Seed of the initial parameters and the dropout masks.
        model_parallel: Devices that share one copy of the parameters.
        data_parallel: Copies of the parameters, which share the batch; None uses all devices.
        steps_per_dispatch: Steps handed to the device in one call. More than one pays if a step takes about a
            millisecond; results are the same.
        log_every: Steps between records in metrics.jsonl; each holds means over the steps since the last.
        evaluate_every: Steps between evaluations; None evaluates at the end only.
        evaluate_at_start: Evaluate the initial parameters as step 0.
        checkpoint_every: Steps between checkpoints; None saves at the end (and when interrupted) only.
        keep: Number of latest checkpoints kept, beside the best.
        best_metric: ``"evaluator/metric"`` whose best evaluation is checkpointed and kept; None keeps no best.
        best_mode: ``'max'`` if high values are good, ``'min'`` if low ones are.
        tensorboard: Write TensorBoard event files beside metrics.jsonl.
    """

    steps: Annotated[int, at_least(1)]
    batch_size: Annotated[int, at_least(1)]
    gradient_accumulation: Annotated[int, at_least(1)] = 1
    optimizer: Optimizer = dataclasses.field(default_factory=AdamW)
    clip_norm: Annotated[float, more_than(0)] | None = 1.0
    average_decay: Annotated[float, more_than(0), less_than(1)] | None = None
    seed: Annotated[int, from_to(0, 2**32 - 1)] = 0
    model_parallel: Annotated[int, at_least(1)] = 1
    data_parallel: Annotated[int, at_least(1)] | None = None
    steps_per_dispatch: Annotated[int, at_least(1)] = 1
    log_every: Annotated[int, at_least(1)] = 50
    evaluate_every: Annotated[int, at_least(1)] | None = None
    evaluate_at_start: bool = False
    checkpoint_every: Annotated[int, at_least(1)] | None = 500
    keep: Annotated[int, at_least(1)] = 2
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        divides = self.batch_size % self.gradient_accumulation == 0
        require(self, "gradient_accumulation", divides, f"a divisor of batch_size {self.batch_size}")
