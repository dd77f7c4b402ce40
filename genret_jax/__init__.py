"""Generative retrieval in JAX: train a sequence model to write the docid of the document or item that answers."""

import pathlib

__version__ = "0.1.0"

# In a clone and an editable install `tasks/` and `gin_configs/` lie beside this package; a wheel puts them inside it.
# Either way they are `genret_jax.tasks` and `genret_jax/gin_configs`, so seqio never registers a task twice.
_beside = pathlib.Path(__file__).resolve().parent.parent
if (_beside / "tasks" / "__init__.py").is_file() and (_beside / "gin_configs").is_dir():
    __path__.append(str(_beside))


def __getattr__(name: str) -> object:
    if name == "Retriever":  # imported on use: `import genret_jax` stays quick and needs no accelerator
        from genret_jax.retriever import Retriever

        return Retriever
    raise AttributeError(f"module 'genret_jax' has no attribute {name!r}")
