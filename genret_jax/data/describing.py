"""Summaries of a corpus, and of items and histories, as text."""

from pathlib import Path

import numpy as np

from genret_jax.data.corpus import Corpus, seen_and_unseen
from genret_jax.data.interactions import EMBEDDINGS, Interactions
from genret_jax.data.records import is_present
from genret_jax.errors import InputError

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHOWN_ITEMS, _SHOWN_CHARACTERS = 5, 100


def describe_corpus(corpus: Corpus, *, samples: int) -> str:
    """Return counts and samples of a corpus, as text.

    Args:
        corpus: A corpus with documents.
        samples: Number of queries of each split to show, each with a relevant document.
    """
    words = sum(len(text.split()) for text in corpus.texts)
    titled = sum(bool(title.strip()) for title in corpus.titles)
    lines = [
        f"{len(corpus):,} documents ({titled:,} with a title, {len(corpus.empty_documents):,} without any text, "
        f"{words / len(corpus):.0f} words on average), {len(corpus.queries):,} queries, "
        f"fingerprint {corpus.fingerprint}"
    ]
    for split, qrels in sorted(corpus.qrels.items(), key=lambda item: (item[0] != "train", item[0])):
        pairs = sum(map(len, qrels.values()))
        line = f"  {split}: {len(qrels):,} queries, {pairs:,} relevant pairs"
        if split != "train" and "train" in corpus.qrels:
            seen, unseen = seen_and_unseen(corpus, split)
            line += f", {len(seen):,} seen and {len(unseen):,} unseen (no relevant document has a training query)"
        lines.append(line)
    if corpus.generated_queries:
        generated = sum(map(len, corpus.generated_queries.values()))
        lines.append(f"  generated: {generated:,} queries for {len(corpus.generated_queries):,} documents")
    for split, qrels in corpus.qrels.items():
        for query_id, grades in list(qrels.items())[:samples]:
            doc_id = max(grades, key=lambda doc: grades[doc])
            text = " ".join(corpus.document_text(corpus.document_index[doc_id]).split())
            lines.append(f"\n  [{split}] {corpus.queries[query_id]}\n      -> {doc_id}: {text[:160]}")
    return "\n".join(lines)


def describe_interactions(interactions: Interactions, folder: Path, *, samples: int) -> str:
    """Return counts and samples of a folder of items and histories, as text.

    Args:
        interactions: The contents of the folder.
        folder: The folder, which may hold vectors too.
        samples: Number of users whose last items are shown.
    """
    items, lengths = interactions.items, interactions.lengths
    total, cells = len(interactions.item), interactions.num_users * len(items)
    quantiles = np.quantile(lengths, _QUANTILES, method="nearest")
    of_item = np.bincount(interactions.item, minlength=len(items))
    text = sum(len(text.split()) for text in items.texts)
    lines = [
        f"{interactions.num_users:,} users, {len(items):,} items, {total:,} interactions "
        f"(density {100 * total / cells:.3g} %), fingerprint {interactions.fingerprint}",
        f"  items of a user: {lengths.mean():.2f} on average; "
        + ", ".join(f"{_quantile_name(q)} {n:,}" for q, n in zip(_QUANTILES, quantiles, strict=True)),
        f"  users of an item: {of_item.mean():.2f} on average; {int((of_item == 0).sum()):,} items without a user",
        f"  evaluated by leaving out the last item: {len(interactions.evaluated_users):,} users",
        f"  texts: {text / len(items):.1f} words on average, {len(items.empty_documents):,} items without any",
        f"  vectors: {_describe_vectors(folder / EMBEDDINGS, items)}",
    ]
    lines += [_describe_history(interactions, user) for user in range(min(samples, interactions.num_users))]
    return "\n".join(lines)


def _quantile_name(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{100 * quantile:g} %")


def _describe_vectors(path: Path, items: Corpus) -> str:
    if not is_present(path):
        texts = len(items) > len(items.empty_documents)
        return f"no {path.name}" + (
            "; they can be made from the texts" if texts else ", and no texts to make them from"
        )
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"not a readable .npy file ({error})", file=path, fix="write it with numpy.save") from None
    if not isinstance(stored, np.ndarray):
        raise InputError("an archive of arrays", file=path, expected="one array", fix="write it with numpy.save")
    shape = "×".join(f"{size:,}" for size in stored.shape)
    if stored.ndim != 2 or len(stored) != len(items):
        return f"{path.name} does not fit: {shape} for {len(items):,} items"
    return f"{path.name} fits: {shape}, {stored.dtype}"


def _describe_history(interactions: Interactions, user: int) -> str:
    history = interactions.history(user).tolist()
    lines = [f"\n  user {interactions.user_ids[user]}, {len(history):,} items"]
    if len(history) > _SHOWN_ITEMS:
        lines.append(f"      … {len(history) - _SHOWN_ITEMS:,} before")
    for item in history[-_SHOWN_ITEMS:]:
        title = interactions.items.titles[item] or interactions.items.texts[item] or "(no text)"
        lines.append(f"      {interactions.items.doc_ids[item]}: {' '.join(title.split())[:_SHOWN_CHARACTERS]}")
    return "\n".join(lines)
