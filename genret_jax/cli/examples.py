"""``genret examples``: print training examples of a run or store, or build a store for t5x and seqio."""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genret_jax.errors import InputError, nearest

if TYPE_CHECKING:
    from genret_jax.data.corpus import Corpus
    from genret_jax.data.examples.sampler import SamplerConfig
    from genret_jax.data.examples.store import ExampleStore
    from genret_jax.data.text.vocabulary import Vocabulary

HELP = "print training examples of a run, or build examples for t5x and seqio"

_EPILOG = """
'genret train' makes the examples of a run itself, in RUN/examples: nothing has to be built before it.

examples:
  genret examples show runs/mine
  genret examples show runs/mine --task retrieval --seqio
  genret examples build --corpus corpora/python-docs --docids docids/semantic --out examples/python-docs
"""
_TASKS = {"indexing": "indexing_rate", "pseudo_queries": "pseudo_query_rate", "retrieval": "retrieval_rate"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="{show,build}")
    _configure_show(actions)
    _configure_build(actions)


def _configure_build(actions: "argparse._SubParsersAction[Any]") -> None:
    build = actions.add_parser(
        "build",
        help="write an example store for t5x or another program that reads seqio tasks",
        description="Write an example store for t5x or another program that reads seqio tasks (docs/t5x.md); 'genret "
        "train' does not read it, and makes its own. A store holds documents and queries as words with their tokens, "
        "and docids. Rates and representations are options of the tasks and need no new store.",
        epilog="example:\n  genret examples build --corpus corpora/python-docs --docids docids/semantic "
        "--out examples/python-docs --vocabulary-size 4000",
    )
    build.add_argument("--corpus", required=True, metavar="DIR", help="the BEIR folder")
    build.add_argument("--docids", required=True, metavar="DIR", help="docids of its documents ('genret docids build')")
    build.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    build.add_argument(
        "--vocabulary",
        default="sentencepiece",
        metavar="KIND",
        help="sentencepiece (trained on the corpus), bytes, or the path of a SentencePiece .model with T5's special "
        "tokens (default: sentencepiece)",
    )
    build.add_argument(
        "--vocabulary-size", type=int, default=8000, metavar="N", help="most pieces to train (default: 8000)"
    )
    build.add_argument(
        "--normalization",
        choices=("words", "none"),
        help="words: lower-case, camelCase split, no punctuation; none: the model's own, for pretrained weights "
        "(default: words for a trained vocabulary, none for bytes and .model files)",
    )
    build.add_argument("--extra-ids", type=int, default=100, metavar="N", help="sentinel tokens (default: 100, as T5)")
    build.add_argument(
        "--docid-tokens",
        choices=("per_level", "shared", "text"),
        default="per_level",
        help="tokens of docids: new ones for every level, new ones shared by all levels, or the digits of the text "
        "vocabulary (default: per_level)",
    )
    build.add_argument(
        "--document-words", type=int, metavar="N", help="most words of a document to keep (default: all)"
    )


def _configure_show(actions: "argparse._SubParsersAction[Any]") -> None:
    show = actions.add_parser(
        "show",
        help="print examples as text",
        description="Print training examples as text, each with its document. The options choose which examples; those "
        "that a run was trained with are in its configuration.",
        epilog="example:\n  genret examples show runs/mine --count 3 --task indexing --representation set",
    )
    show.add_argument("folder", metavar="DIR", help="a run folder, or an example store from 'genret examples build'")
    show.add_argument("--count", type=int, default=5, metavar="N", help="examples to print (default: 5)")
    show.add_argument("--task", choices=("all", *_TASKS), default="all", help="which examples (default: all)")
    show.add_argument(
        "--representation",
        choices=("direct", "set", "inverted"),
        default="direct",
        help="input of indexing examples: the first tokens of a document, its distinct terms, or a random chunk "
        "(default: direct)",
    )
    show.add_argument(
        "--objective",
        choices=("inputs_to_targets", "targets_to_inputs", "bidirectional", "span_corruption"),
        default="inputs_to_targets",
        help="direction of indexing examples (default: inputs_to_targets)",
    )
    show.add_argument("--input-length", type=int, default=24, metavar="N", help="encoder tokens (default: 24)")
    show.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    show.add_argument(
        "--seqio", action="store_true", help="print them through the seqio tasks, with features and mixture rates"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _build(args) if args.action == "build" else _show(args)


def _build(args: argparse.Namespace) -> int:
    from genret_jax.data.corpus import read_beir
    from genret_jax.data.examples.building import build_store
    from genret_jax.docids.codec import DocidCodec
    from genret_jax.docids.table import DocidTable
    from genret_jax.storage import require_free

    out = Path(args.out)
    require_free(out)
    for name, least in (("vocabulary_size", 1), ("extra_ids", 0), ("document_words", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}", expected=f"a number of at least {least}")
    table = DocidTable.load(args.docids)
    corpus = read_beir(args.corpus)
    table.require_corpus(corpus.fingerprint, file=args.docids)
    vocabulary = _vocabulary(args, corpus)
    codec = DocidCodec(
        kind=args.docid_tokens,
        first_token=vocabulary.size,
        level_sizes=table.level_sizes,
        eos="always",
        encode_text=vocabulary.encode if args.docid_tokens == "text" else None,
    )
    store = build_store(
        out,
        corpus,
        codec.encode(table),
        vocabulary,
        codec=codec,
        docids_fingerprint=table.fingerprint,
        document_words=args.document_words,
    )
    print(_describe(store))
    print(f"\nwritten to {out}; read examples with: genret examples show {out}")
    return 0


def _vocabulary(args: argparse.Namespace, corpus: "Corpus") -> "Vocabulary":
    from genret_jax.data.records import is_present
    from genret_jax.data.text.vocabulary import make_vocabulary

    made = args.vocabulary in ("sentencepiece", "bytes")
    if not made and not args.vocabulary.endswith(".model") and not is_present(Path(args.vocabulary)):
        raise InputError(
            f"--vocabulary {args.vocabulary}",
            expected="sentencepiece, bytes or the path of a .model file",
            fix=nearest(args.vocabulary, ("sentencepiece", "bytes")) or "see 'genret examples build --help'",
        )
    return make_vocabulary(
        corpus,
        kind=args.vocabulary if made else "file",
        size=args.vocabulary_size,
        normalization=args.normalization or ("words" if args.vocabulary == "sentencepiece" else "none"),
        extra_ids=args.extra_ids,
        path=None if made else args.vocabulary,
    )


def _describe(store: "ExampleStore") -> str:
    manifest = store.manifest
    pairs = ", ".join(f"{split} {len(store.pairs(split)[0]):,}" for split in store.splits) or "none"
    generated = len(store.array("generated_word_offsets")) - 1
    with_text = len(store.documents_with_text)
    return "\n".join(
        [
            f"corpus      {manifest['corpus']}: {store.num_documents:,} documents, {with_text:,} with text, "
            f"{len(store.array('document_words')):,} words, {manifest['words']:,} distinct",
            f"queries     {len(store.query_ids):,}; pairs: {pairs}; generated: {generated:,}",
            f"vocabulary  {store.vocabulary.kind}, {store.vocabulary_size:,} tokens of which "
            f"{manifest['extra_ids']} sentinels, normalization {store.vocabulary.normalization!r}",
            f"docids      {manifest['codec']['kind']}, up to {store.docid_length} tokens, decoder vocabulary "
            f"{store.decoder_vocabulary_size:,}",
            f"fingerprint {store.fingerprint}",
        ]
    )


def _show(args: argparse.Namespace) -> int:
    from genret_jax.data.examples.store import ExampleStore
    from genret_jax.data.records import is_present
    from genret_jax.data.text.words import printable

    if args.count < 0:
        raise InputError(f"--count {args.count}", expected="a number of at least 0")
    folder = Path(args.folder)
    store = ExampleStore.open(folder / "examples" if is_present(folder / "examples") else folder)
    config = _config(args)
    print(printable(_describe(store)))
    for line in _seqio_lines(store, config, args) if args.seqio else _sampled_lines(store, config, args):
        print(printable(line))
    return 0


def _config(args: argparse.Namespace) -> "SamplerConfig":
    from genret_jax.data.examples.sampler import SamplerConfig

    config = SamplerConfig(
        representation=args.representation, objective=args.objective, input_length=args.input_length, append_eos=True
    )
    if args.task == "all":
        return config
    rates: dict[str, Any] = dict.fromkeys(_TASKS.values(), 0.0) | {_TASKS[args.task]: 1.0}
    # For retrieval alone, draw queries, so that no document without one shows a pseudo-query.
    return dataclasses.replace(config, **rates, draw="query" if args.task == "retrieval" else config.draw)


def _sampled_lines(store: "ExampleStore", config: "SamplerConfig", args: argparse.Namespace) -> Iterator[str]:
    import numpy as np

    from genret_jax.data.examples.sampler import KINDS, Sampler
    from genret_jax.data.examples.token_text import TokenText

    if not args.count:
        return
    sampler = Sampler(store, config, seed=args.seed, batch_size=args.count)
    batch = sampler.batch(0)
    _, drawn = sampler.draw(0, np.arange(args.count))
    inputs, targets = TokenText.of_inputs(store), TokenText.of_targets(store)
    for row in range(args.count):
        document = int(batch["document"][row])
        title = " ".join(store.titles[document].split())[:80]
        yield ""
        yield f"{KINDS[drawn.kind[row]]:<12}  document {store.doc_ids[document]}{f'  {title}' if title else ''}"
        yield f"  encoder     {inputs.decode(batch['encoder_input_tokens'][row])}"
        yield f"  decoder     {targets.decode(batch['decoder_target_tokens'][row])}"


def _seqio_lines(store: "ExampleStore", config: "SamplerConfig", args: argparse.Namespace) -> Iterator[str]:
    from genret_jax.data.seqio.tasks import register_tasks
    from genret_jax.data.seqio.vocabulary import import_seqio

    seqio, _ = import_seqio()
    registered = register_tasks(str(store.folder), "examples", config, seed=args.seed)
    total = sum(registered.tasks.values())
    yield f"\nmixture {registered.mixture!r} of {len(registered.tasks)} seqio tasks"
    for name, rate in registered.tasks.items():
        task = seqio.TaskRegistry.get(name)
        yield f"\ntask {name}  rate {rate:g} ({rate / total:.0%})  splits {', '.join(sorted(task.splits))}"
        for side, feature in task.output_features.items():
            yield f"  feature {side}: {feature.dtype.name}, vocabulary of {feature.vocabulary.vocab_size:,}"
        dataset = task.get_dataset(None, split="train", shuffle=False).take(args.count)
        for example in dataset.as_numpy_iterator():
            texts = {side: task.output_features[side].vocabulary.decode(example[side]) for side in task.output_features}
            yield f"  inputs   {texts['inputs']}"
            yield f"  targets  {texts['targets']}   {example['targets'].tolist()}"
