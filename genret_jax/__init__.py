"""Generative retrieval in JAX: train a sequence model to write the docid of the document or item that answers."""

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a clone and an editable install `tasks/` and `gin_configs/` lie beside this package; a wheel puts them inside it.
# Either way they are `genret_jax.tasks` and `genret_jax/gin_configs`, so seqio never registers a task twice.
_beside = pathlib.Path(__file__).resolve().parent.parent
if (_beside / "tasks" / "__init__.py").is_file() and (_beside / "gin_configs").is_dir():
    __path__.append(str(_beside))


if TYPE_CHECKING:
    from genret_jax.config.experiment import Experiment, Recommendation
    from genret_jax.retriever import Retriever, SearchResult
    from genret_jax.run import evaluate_runs, open_run, train, train_run, train_seeds

__all__ = [
    "Experiment",
    "Recommendation",
    "Retriever",
    "SearchResult",
    "evaluate_runs",
    "open_run",
    "train",
    "train_run",
    "train_seeds",
]
# Imported on use: `import genret_jax` stays quick and needs no accelerator.
_ROOMS = {"Experiment": "config.experiment", "Recommendation": "config.experiment"}
_ROOMS |= {"Retriever": "retriever", "SearchResult": "retriever"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'genret_jax' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"genret_jax.{_ROOMS.get(name, 'run')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
