"""One of several processes that train the tiny task: python tiny_program.py COORDINATOR PROCESSES PROCESS OPTIONS."""

import json
import sys
import time

from genret_jax.cli.train import among_others
from genret_jax.parallel.cluster import Cluster


def train(options):
    import jax
    from support.tiny_training_task import TinyModel, TinyTask

    from genret_jax.orbax_reading import DamagedError, UnreadableError
    from genret_jax.training import AdamW, Constant, TrainerConfig, checkpoints, train

    class PacedTask(TinyTask):
        def batch(self, step, rows=None):
            time.sleep(options.get("seconds_a_batch", 0))
            return super().batch(step, rows)

    class SlowCheckpoints(checkpoints.Checkpoints):
        def save(self, *args, **kwargs):
            time.sleep(options["seconds_a_save"][jax.process_index()])
            super().save(*args, **kwargs)

    if "unreadable" in options:
        load_items = checkpoints.load_items

        def fail_to_load(path, like):
            if jax.process_index() == options["unreadable"]["process"] and path.name == options["unreadable"]["step"]:
                raise UnreadableError("too many files") if options["unreadable"].get("whole") else DamagedError("lost")
            return load_items(path, like)

        checkpoints.load_items = fail_to_load
    if "seconds_a_save" in options:
        sys.modules["genret_jax.training.loop"].Checkpoints = SlowCheckpoints
    settings = {"steps": 12, "batch_size": 16, "log_every": 1, "checkpoint_every": 4, "tensorboard": False}
    config = TrainerConfig(
        optimizer=AdamW(learning_rate=Constant(rate=0.02)), **{**settings, **options.get("config", {})}
    )
    task = PacedTask(model=TinyModel(hidden=options.get("hidden", 16)))
    evaluators = {"x": lambda params, step: {"y": float(abs(params["wi"]).sum())}}
    result = train(task, config, options["folder"], evaluators=evaluators)
    if result.interrupted:
        raise KeyboardInterrupt
    return 0


if __name__ == "__main__":
    coordinator, processes, process, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    cluster = Cluster(
        coordinator=coordinator,
        processes=processes,
        process=process,
        arrival_seconds=options.get("arrival_seconds", 45),
    )
    sys.exit(among_others(cluster, lambda: train(options)))
