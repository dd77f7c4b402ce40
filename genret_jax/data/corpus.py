"""Corpora: documents, queries and judgements, read from and written to the BEIR folder layout.

A BEIR folder (Thakur et al. 2021, arXiv 2104.08663) holds ``corpus.jsonl`` (``_id``, ``title``, ``text``),
``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv`` (header ``query-id corpus-id score``). Beside them
``queries_generated.jsonl`` may give pseudo-queries from any tool: ``_id`` of a document, with ``text`` or ``queries``.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from genret_jax.data.qrels import HIGHEST_GRADE, read_qrels, write_qrels
from genret_jax.data.records import (
    Place,
    check_ids,
    id_field,
    is_present,
    list_folder,
    read_identified,
    read_json_lines,
    require_folder,
    require_known,
    text_field,
    write_json_lines,
)
from genret_jax.errors import InputError
from genret_jax.storage import atomic_folder, fingerprint

Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents with the queries and judgements that belong to them.

    Attributes:
        name: Name in reports; by default that of the folder.
        doc_ids: External document ids, n of them, in the order of the file.
        titles: Titles, aligned with ``doc_ids``; may be empty strings.
        texts: Bodies, aligned with ``doc_ids``; may be empty strings.
        queries: Query id to text, of all splits together.
        qrels: Split to query id to document id to grade (above 0).
        generated_queries: Document id to pseudo-queries made by any tool.
        source: Folder that it was read from, or name of the program that made it.

    Raises:
        InputError: If an id of a document or query is no non-empty Unicode string or is there twice, or a grade is no
            positive number of 31 bits.
    """

    name: str
    doc_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    queries: Mapping[str, str] = field(default_factory=dict)
    qrels: Mapping[str, Qrels] = field(default_factory=dict)
    generated_queries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not len(self.doc_ids) == len(self.titles) == len(self.texts):
            raise ValueError(f"{len(self.doc_ids)} ids, {len(self.titles)} titles, {len(self.texts)} texts")
        check_ids(self.doc_ids, "document")
        check_ids(self.queries, "query")
        grades = (grade for qrels in self.qrels.values() for judged in qrels.values() for grade in judged.values())
        for grade in grades:
            if not 0 < grade <= HIGHEST_GRADE:
                raise InputError(f"the grade {grade}", expected=f"1 to {HIGHEST_GRADE}", fix="change or remove it")

    def __len__(self) -> int:
        return len(self.doc_ids)

    def document_text(self, index: int) -> str:
        """Return ``"title. text"``, or the text alone if there is no title or the text begins with it."""
        title, text = self.titles[index].strip(), self.texts[index].strip()
        if not title or _begins_with(text, title):
            return text
        if not text:
            return title
        return f"{title}{'' if title[-1] in '.!?' else '.'} {text}"

    def extended(self, doc_ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> "Corpus":
        """Return the corpus with further documents after its own; titles and texts may be left out as ``()``.

        Raises:
            InputError: If there are not as many titles or texts as documents, an id is no non-empty Unicode string, or
                an id is in the corpus already.
        """
        for name, given in (("titles", titles), ("texts", texts)):
            if given and len(given) != len(doc_ids):
                raise InputError(f"{len(given)} {name} for {len(doc_ids)} documents", expected="one for each, or none")
        nothing = [""] * len(doc_ids)
        return replace(
            self,
            doc_ids=(*self.doc_ids, *doc_ids),
            titles=(*self.titles, *(titles or nothing)),
            texts=(*self.texts, *(texts or nothing)),
        )

    @cached_property
    def document_index(self) -> dict[str, int]:
        """Maps each document id to its position."""
        return {doc_id: index for index, doc_id in enumerate(self.doc_ids)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the ids, titles and texts of the documents, and their order."""
        return fingerprint("corpus", list(self.doc_ids), list(self.titles), list(self.texts))

    @cached_property
    def empty_documents(self) -> tuple[int, ...]:
        """Positions of the documents with neither title nor text."""
        return tuple(i for i in range(len(self)) if not (self.titles[i].strip() or self.texts[i].strip()))


def _begins_with(text: str, title: str) -> bool:
    rest = text[len(title) : len(title) + 1]
    return text.startswith(title) and not rest.isalnum()


def seen_and_unseen(corpus: Corpus, split: str) -> tuple[list[str], list[str]]:
    """Divide a split's queries by whether training asked for one of their relevant documents.

    Args:
        corpus: The corpus.
        split: The split to divide, e.g. ``"test"``.

    Returns:
        Ids of the seen queries, which share a relevant document with a query of ``train``; and ids of the unseen ones.
    """
    trained = {doc_id for grades in corpus.qrels.get("train", {}).values() for doc_id in grades}
    seen: list[str] = []
    unseen: list[str] = []
    for query_id, grades in corpus.qrels[split].items():
        (unseen if trained.isdisjoint(grades) else seen).append(query_id)
    return seen, unseen


def read_beir(folder: str | PathLike[str]) -> Corpus:
    """Read a BEIR folder; ``queries.jsonl``, ``qrels/`` and ``queries_generated.jsonl`` may be absent.

    Documents without title and text are kept, with a warning. Judgements of grade 0 and below are dropped. Other fields
    are ignored.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    folder = Path(folder)
    require_folder(
        folder,
        expected="a BEIR folder with corpus.jsonl, queries.jsonl and qrels/*.tsv",
        fix="check the path, or make one with 'genret corpus python-docs --out DIR'",
    )
    doc_ids, titles, texts = read_documents(folder / "corpus.jsonl")
    known = set(doc_ids)
    files = _qrels_files(folder)
    queries = _read_queries(folder / "queries.jsonl") if files or is_present(folder / "queries.jsonl") else {}
    corpus = Corpus(
        name=folder.resolve().name,
        doc_ids=doc_ids,
        titles=titles,
        texts=texts,
        queries=queries,
        qrels={file.stem: read_qrels(file, queries, known) for file in files},
        generated_queries=_read_generated_queries(folder / "queries_generated.jsonl", known),
        source=fspath(folder),
    )
    warn_of_empty_documents(corpus)
    _warn_of_shared_queries(corpus)
    return corpus


def read_documents(path: Path, *, need_text: bool = True) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return ids, titles and texts from a file of documents or items; other fields are ignored.

    Args:
        path: The file.
        need_text: Refuse a file in which no document has any text.

    Raises:
        InputError: Naming file and line, if an id repeats, a field is of another type, or no document has any text.
    """
    documents: dict[str, tuple[str, str]] = {}
    for doc_id, place, record in read_identified(path):
        required = need_text and "text" not in record
        text = text_field(record, "text", place, default=None if required else "")
        documents[doc_id] = text_field(record, "title", place, default=""), text
    if not documents:
        raise InputError("no documents", file=path, expected="one JSON object a line", fix="check how it was made")
    titles, texts = zip(*documents.values(), strict=True)
    if need_text and not any(map(str.strip, (*titles, *texts))):
        found = f"none of the {len(documents):,} documents has any text"
        raise InputError(found, file=path, expected="'title' or 'text' with words", fix="check how it was made")
    return tuple(documents), titles, texts


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for query_id, place, record in read_identified(path):
        queries[query_id] = text_field(record, "text", place)
        if not queries[query_id].strip():
            raise place.error(f"query {query_id!r} has no text", fix="remove it here and in the judgements")
    return queries


def _qrels_files(folder: Path) -> list[Path]:
    present = list_folder(folder / "qrels") if is_present(folder / "qrels") else []
    files = [file for file in present if file.suffix == ".tsv"]
    if present and not files:
        raise InputError(
            f"no .tsv file, but {present[0].name!r}",
            file=folder / "qrels",
            expected="judgements as SPLIT.tsv",
            fix="rename or convert them, or remove the folder",
        )
    return files


def _read_generated_queries(path: Path, documents: set[str]) -> dict[str, tuple[str, ...]]:
    generated: dict[str, list[str]] = {}
    if not is_present(path):
        return {}
    for place, record in read_json_lines(path):
        doc_id = id_field(record, "doc_id" if "doc_id" in record else "_id", place)
        require_known(doc_id, "document", "corpus.jsonl", documents, place)
        generated.setdefault(doc_id, []).extend(q for q in _generated(record, place) if q.strip())
    return {doc_id: tuple(queries) for doc_id, queries in generated.items() if queries}


def _generated(record: dict[str, Any], place: Place) -> list[str]:
    queries = record.get("queries")
    if queries is None:
        return [text_field(record, "text", place)]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise place.error(
            f"'queries' is {str(queries)[:60]!r}",
            expected="a list of strings",
            fix='write it as {"_id": "d1", "queries": ["...", "..."]}',
        )
    return queries


def warn_of_empty_documents(corpus: Corpus) -> None:
    """Warn of documents without title and text."""
    if corpus.empty_documents:
        some = ", ".join(repr(corpus.doc_ids[i]) for i in corpus.empty_documents[:5])
        warnings.warn(
            f"{corpus.source}: {len(corpus.empty_documents)} of {len(corpus):,} documents have neither title nor text "
            f"({some}{', …' * (len(corpus.empty_documents) > 5)}); they get docids, but a model can learn nothing "
            "about them",
            stacklevel=3,
        )


def _warn_of_shared_queries(corpus: Corpus) -> None:
    train = corpus.qrels.get("train", {})
    for split, qrels in corpus.qrels.items():
        shared = len(train.keys() & qrels.keys())
        if split != "train" and shared:
            warnings.warn(
                f"{corpus.source}: {shared:,} of the {len(qrels):,} queries of split '{split}' are training queries "
                "too; scores on it will be too good",
                stacklevel=3,
            )


def write_beir(corpus: Corpus, folder: str | PathLike[str]) -> None:
    """Write a corpus as a BEIR folder; a failure leaves no folder.

    Raises:
        InputError: If something is there already, or the disk is full.
    """
    with atomic_folder(folder) as partial:
        write_documents(partial / "corpus.jsonl", corpus)
        write_json_lines(partial / "queries.jsonl", ({"_id": i, "text": t} for i, t in corpus.queries.items()))
        (partial / "qrels").mkdir()
        for split, qrels in corpus.qrels.items():
            write_qrels(partial / "qrels" / f"{split}.tsv", qrels)
        if corpus.generated_queries:
            write_json_lines(
                partial / "queries_generated.jsonl",
                ({"_id": doc_id, "queries": list(q)} for doc_id, q in corpus.generated_queries.items()),
            )


def write_documents(path: Path, corpus: Corpus) -> None:
    """Write ids, titles and texts for :func:`read_documents`."""
    documents = zip(corpus.doc_ids, corpus.titles, corpus.texts, strict=True)
    write_json_lines(path, ({"_id": i, "title": title, "text": text} for i, title, text in documents))
