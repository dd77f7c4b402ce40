"""Natural Questions (Kwiatkowski et al. 2019) from TensorFlow Datasets, in the protocol of DSI.

DSI (Tay et al. 2022, arXiv 2202.06991, section 4.1) names its sets after their number of question–document pairs,
training and validation together. NQ320K has all pairs, with the validation split as test; NQ10K and NQ100K are random
samples, of which a random fifth is the test.

Papers differ in the identity of documents, and so in their figures. NCI, GenRet and their successors identify pages by
title (about 110,000 documents in NQ320K). DSI identifies them by their first 4,000 lower-cased characters (more than
200,000 documents, as each revision of an article is one).
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from genret_jax.data.corpus import Corpus
from genret_jax.errors import InputError

Size = Literal["10k", "100k", "320k"]
Identity = Literal["title", "text"]

DOCUMENT_CHARACTERS = 4000
TEST_SHARE = 0.2

# Pairs in training and test together; None stands for all.
_PAIRS: dict[str, int | None] = {"10k": 10_000, "100k": 100_000, "320k": None}
_PREPARE = "python -c \"import tensorflow_datasets as t; t.builder('natural_questions').download_and_prepare()\""


class Pair(NamedTuple):
    """A question with its Wikipedia page.

    Attributes:
        example_id: Id of the pair in Natural Questions.
        question: The question.
        title: Title of the page.
        text: First characters of the page, without markup.
    """

    example_id: str
    question: str
    title: str
    text: str


def natural_questions(
    size: Size = "10k",
    *,
    identity: Identity = "title",
    seed: int = 0,
    data_dir: str | None = None,
    download: bool = False,
) -> Corpus:
    """Read Natural Questions as a corpus with splits ``train`` and ``test``.

    Pages are cut to their first 4,000 characters. The id of a document is the Natural Questions id of its first pair,
    the id of a query that of its pair.

    Args:
        size: DSI's set: ``"10k"``, ``"100k"`` or ``"320k"``.
        identity: Identity of documents: pages with the same ``"title"`` or the same ``"text"`` are one.
        seed: Seed of the samples 10k and 100k.
        data_dir: Folder of TensorFlow Datasets; by default its own.
        download: Download and prepare the set if it is missing (some 42 GB; needs apache-beam).

    Raises:
        InputError: If tensorflow-datasets or the set is missing, or the set is smaller than ``size``.
    """
    if size not in _PAIRS:
        raise InputError(f"size {size!r}", expected=f"one of {', '.join(_PAIRS)}", fix="choose one of them")
    if identity not in ("title", "text"):
        raise InputError(f"identity {identity!r}", expected="'title' or 'text'", fix="choose one of them")
    builder = _builder(data_dir, download)
    pairs = _PAIRS[size]
    if pairs is None:
        train: Iterable[Pair] = _read_pairs(builder, "train")
        test: Iterable[Pair] = _read_pairs(builder, "validation")
    else:
        sampled = sample_pairs(_read_pairs(builder, "train"), pairs, seed)
        held_out = round(pairs * TEST_SHARE)
        train, test = sampled[held_out:], sampled[:held_out]
    return corpus_of_pairs(train, test, identity=identity, name=f"nq{size}", source=f"natural_questions, {size}")


def sample_pairs(pairs: Iterable[Pair], count: int, seed: int) -> list[Pair]:
    """Draw pairs without replacement, independently of their order, with only the sample in memory.

    Args:
        pairs: The pairs.
        count: Size of the sample.
        seed: Seed of the sample.

    Returns:
        The sample in random order.

    Raises:
        InputError: If there are fewer pairs.
    """

    def priority(pair: Pair) -> bytes:
        return hashlib.sha256(f"{seed}:{pair.example_id}".encode()).digest()

    sample = heapq.nsmallest(count, pairs, key=priority)
    if len(sample) < count:
        raise InputError(
            f"{len(sample):,} pairs in Natural Questions",
            expected=f"at least {count:,}",
            fix="prepare the whole set, or choose a smaller size",
        )
    return sample


def corpus_of_pairs(
    train: Iterable[Pair], test: Iterable[Pair], *, identity: Identity = "title", name: str, source: str
) -> Corpus:
    """Make one document of all equal pages, and one query of each question.

    Args:
        train: Training pairs.
        test: Test pairs; their pages are documents too.
        identity: ``"title"`` or ``"text"``, ignoring case and white space; pages without title use their text.
        name: Name of the corpus.
        source: Description of its source.
    """
    documents: dict[str, Pair] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for split, pairs in (("train", train), ("test", test)):
        for pair in pairs:
            document = documents.setdefault(_identity_key(pair, identity), pair)
            queries[pair.example_id] = pair.question
            qrels.setdefault(split, {})[pair.example_id] = {document.example_id: 1}
    return Corpus(
        name=name,
        doc_ids=tuple(page.example_id for page in documents.values()),
        titles=tuple(page.title for page in documents.values()),
        texts=tuple(page.text for page in documents.values()),
        queries=queries,
        qrels=qrels,
        source=source,
    )


def _identity_key(pair: Pair, identity: Identity) -> str:
    title = " ".join(pair.title.lower().split())
    if identity == "title" and title:
        return f"title:{title}"
    return f"text:{hashlib.sha256(' '.join(pair.text.lower().split()).encode()).hexdigest()}"


def _builder(data_dir: str | None, download: bool) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"Natural Questions needs {error.name}, which is not installed", fix="pip install 'genret_jax[seqio]'"
        ) from None
    builder = tfds.builder("natural_questions/default", data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    elif not (builder.data_path / "dataset_info.json").exists():  # is_prepared() checks the same, but logs
        raise InputError(
            "Natural Questions is not prepared",
            file=builder.data_dir,
            expected="a set prepared by TensorFlow Datasets",
            fix=f"give its folder as data_dir, or prepare it with download = True, or by {_PREPARE}",
        )
    return builder


def _read_pairs(builder: Any, split: str) -> Iterator[Pair]:
    """Yield the pairs of a split without decoding the HTML, the largest part of each record."""
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    @tf.autograph.experimental.do_not_convert
    def first_words(record: dict[str, Any]) -> dict[str, Any]:
        tokens = record["document"]["tokens"]
        words = tf.boolean_mask(tokens["token"], tf.logical_not(tokens["is_html"]))
        return {
            "example_id": record["id"],
            "question": record["question"]["text"],
            "title": record["document"]["title"],
            # A word takes two characters at least, with the space after it, so these words suffice.
            "text": tf.strings.reduce_join(words[: DOCUMENT_CHARACTERS // 2 + 1], separator=" "),
        }

    wanted = {
        "id": True,
        "question": {"text": True},
        "document": {"title": True, "tokens": {"token": True, "is_html": True}},
    }
    # Keep the order of files and records, because the first page with a title becomes the document.
    records = builder.as_dataset(split=split, shuffle_files=False, decoders=tfds.decode.PartialDecoding(wanted))
    records = records.map(first_words, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(64)
    total = builder.info.splits[split].num_examples
    # disable=None: tqdm shows itself on a terminal only.
    for record in tqdm(records.as_numpy_iterator(), total=total, desc=f"reading {split}", unit="pair", disable=None):
        fields = {name: value.decode("utf-8", errors="replace") for name, value in record.items()}
        yield Pair(**{**fields, "text": fields["text"][:DOCUMENT_CHARACTERS].strip()})
