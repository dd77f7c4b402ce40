"""Write the results of ``t5x.infer`` as TREC run files with the corpus's own ids; for ``infer.write_fn``."""

import functools
from typing import Any

import numpy as np

from genret_jax.data.examples.store import ExampleStore
from genret_jax.decoding import INVALID
from genret_jax.errors import InputError
from genret_jax.evaluation.trec import Ranking, write_run


def write_rankings(path: str, inferences: Any, task_ds: Any, mode: str, vocabulary: Any, *, examples: str) -> None:
    """Write the rankings of a part of a retrieval task's split; the signature is that of t5x.

    Args:
        path: The file, on a file system of this machine.
        inferences: Docid tokens ``[k, m]`` of each query, the best last, and ``{"scores": [k]}``.
        task_ds: The task's examples, which hold their split and query.
        mode: Must be ``predict_with_aux``, which returns scores.
        vocabulary: Not used.
        examples: Folder of the task's example store.

    Raises:
        InputError: If scores or beams are missing, or the task is not a retrieval task.
    """
    predictions, aux = inferences
    if mode != "predict_with_aux" or (len(predictions) and np.ndim(predictions[0]) != 2):
        raise InputError(
            f"infer.mode='{mode}' without all beams and their scores",
            expected="mode='predict_with_aux' and DecoderParams.return_all_decodes=True",
        )
    store = ExampleStore.open(examples)
    documents = _documents_by_docid(examples)
    rankings: dict[str, Ranking] = {}
    for example, tokens, scores in zip(task_ds.as_numpy_iterator(), predictions, aux["scores"], strict=True):
        query = _query_ids(examples, int(example["split"]))[int(example["index"])]
        found: dict[str, float] = {}
        for docid, score in zip(np.asarray(tokens)[::-1], np.asarray(scores)[::-1], strict=True):
            for document in documents[_trimmed(docid)] if score > INVALID else ():
                found.setdefault(store.doc_ids[document], float(score))
        rankings[query] = list(found.items())
    write_run(path, rankings)


@functools.lru_cache(maxsize=1)
def _documents_by_docid(examples: str) -> dict[tuple[int, ...], list[int]]:
    store, found = ExampleStore.open(examples), dict[tuple[int, ...], list[int]]()
    documents = np.repeat(np.arange(store.num_documents), np.diff(store.array("docid_offsets")))
    for document, tokens in zip(documents.tolist(), store.array("docid_tokens"), strict=True):
        found.setdefault(_trimmed(tokens), []).append(document)
    return found


@functools.lru_cache(maxsize=1)
def _query_ids(examples: str, split: int) -> list[str]:
    """Return the ids of a split's queries; seqio numbers the finite splits."""
    store = ExampleStore.open(examples)
    finite = [name for name in store.splits if name != "train"]
    if not 0 <= split < len(finite):
        raise InputError("rankings of examples without a query", expected="a split of the retrieval task but 'train'")
    return store.queries(finite[split], 1)[0]


def _trimmed(tokens: np.ndarray) -> tuple[int, ...]:
    """Return the tokens of a docid without the padding after it."""
    return tuple(int(token) for token in tokens[: np.count_nonzero(tokens)])
