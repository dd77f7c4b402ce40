"""Docid codecs and networks sized for the data, for prepared runs and for plans."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from genret_jax.config.experiment import BaseExperiment, Experiment, Recommendation
from genret_jax.docids import DocidCodec, DocidTable, LearnedDocids, QuantisedDocids
from genret_jax.errors import InputError
from genret_jax.models.config import ItemInput, T5Config, divisible
from genret_jax.models.encoders.config import BertConfig, SentenceForm
from genret_jax.models.encoders.sentence import SentenceEncoder


def sizes_with_room(strategy: Any, table: DocidTable) -> tuple[int, ...]:
    """Return the level sizes with room for later documents.

    A last code that only separates documents gets as many values as a codebook, as in TIGER, and twice as many as are
    used.
    """
    sizes = table.level_sizes
    if isinstance(strategy, LearnedDocids) or (isinstance(strategy, QuantisedDocids) and strategy.separate):
        return (*sizes[:-1], max([*sizes[:-1], 2 * sizes[-1]]))
    return sizes


def document_codec(
    experiment: Experiment, table: DocidTable, text_tokens: int, encode: Callable[[str], Sequence[int]]
) -> DocidCodec:
    """Return how the docids of documents become tokens.

    The prefix head, a decoder with a plan, and one behind a pretrained encoder, write docids only. Otherwise T5's head
    writes text too, so its docid tokens come after those of text.

    Args:
        experiment: The choices.
        table: The docids.
        text_tokens: Size of the text vocabulary.
        encode: Turns text into its tokens.
    """
    level_sizes = sizes_with_room(experiment.docids, table)
    if experiment.model.head == "prefix" or experiment.model.plan is not None or experiment.encoder is not None:
        nodes: Literal["table", "tokens"] = "tokens" if len(level_sizes) == 1 else "table"
        return DocidCodec(first_token=2, level_sizes=level_sizes, nodes=nodes)
    return DocidCodec(
        kind=experiment.codec,
        first_token=text_tokens,
        level_sizes=level_sizes,
        eos="always",
        encode_text=encode if experiment.codec == "text" else None,
    )


def document_network(
    experiment: Experiment, text_tokens: int, codec: DocidCodec, num_nodes: int, terms: int = 0
) -> T5Config:
    """Return the network of an experiment on documents, sized for the corpus.

    Args:
        experiment: The choices.
        text_tokens: Size of the text vocabulary.
        codec: From :func:`document_codec`.
        num_nodes: Nodes of the docid tree.
        terms: Number of terms of a lexical plan.

    Raises:
        InputError: If an adaptive decoder would have no prefix to read.
    """
    if codec.kind != "text":
        experiment.model.require_prefixes(len(codec.level_sizes))
    plan, nodes = experiment.model.plan, num_nodes if experiment.model.head == "prefix" else 0
    if plan is not None:
        sized = _writing_docids(experiment, divisible(text_tokens), codec, nodes)
        form = SentenceForm() if plan.reads_vectors else None
        return dataclasses.replace(sized, sentence=form, plan=plan.sized(terms))
    if nodes:
        return _writing_docids(experiment, divisible(text_tokens), codec, nodes)
    # Public weights may have more rows than their vocabulary has tokens.
    least = experiment.model.vocab_size if getattr(experiment.start, "keeps_vocabulary", False) else 0
    return dataclasses.replace(experiment.model, vocab_size=max(least, divisible(codec.vocab_size)))


def with_encoder(
    model: T5Config, encoder: SentenceEncoder, codec: DocidCodec, terms: int, input_length: int
) -> T5Config:
    """Return a network with a pretrained encoder in place of T5's.

    Args:
        model: The network, sized for the corpus.
        encoder: The encoder.
        codec: From :func:`document_codec`.
        terms: Number of terms of a lexical plan.
        input_length: Tokens of the longest text (``SamplerConfig.input_length``).

    Raises:
        InputError: If the encoder is of another family, or has too few positions.
    """
    if not isinstance(encoder.config, BertConfig) or encoder.projection is not None:
        raise InputError(
            "a network cannot begin with this encoder: it is a T5, or has a Dense module",
            expected="an encoder of the BERT family without Dense",
            fix="use it for vectors only (EncoderVectors), or choose another Experiment.encoder",
        )
    form, positions = encoder.form("query"), encoder.config.max_length
    around = len(form.first_tokens) + (form.last_token > 0)
    room = positions - around
    if input_length > room:
        raise InputError(
            f"SamplerConfig.input_length is {input_length:,}",
            expected=f"at most {room:,}: the encoder has {positions:,} positions, and its special tokens and prompt "
            f"take {around:,}",
            fix=f"set SamplerConfig.input_length to {room:,} or less",
        )
    bert = dataclasses.replace(encoder.config, dropout_rate=0.0, dtype=model.dtype, remat=model.remat)
    heads = encoder.config.num_heads
    return dataclasses.replace(
        model,
        vocab_size=bert.vocab_size,
        decoder_vocab_size=divisible(codec.vocab_size),
        d_model=bert.d_model,
        num_heads=heads,
        d_kv=bert.d_model // heads,
        encoder=bert,
        sentence=form,
        plan=model.plan and model.plan.sized(terms),
    )


def item_network(experiment: Recommendation, codec: DocidCodec, num_nodes: int, docid_length: int) -> T5Config:
    """Return the network of an experiment on items, sized for them.

    The encoder reads codes, and users behind them. With T5's head the decoder shares its table.

    Args:
        experiment: The choices.
        codec: How the items' codes become tokens.
        num_nodes: Nodes of the docid tree.
        docid_length: Tokens of the longest docid.

    Raises:
        InputError: If an adaptive decoder would have no prefix to read.
    """
    experiment.model.require_prefixes(len(codec.level_sizes))
    histories = experiment.histories
    items = ItemInput(
        leading=int(histories.user_tokens > 0),
        length=docid_length,
        count=histories.items,
        causal=histories.causal,
        whole=histories.whole_items,
    )
    vocabulary = divisible(codec.vocab_size + histories.user_tokens)
    item_input = items if histories.positions == "items" else None
    if experiment.model.head == "prefix":
        return dataclasses.replace(_writing_docids(experiment, vocabulary, codec, num_nodes), item_input=item_input)
    model = dataclasses.replace(experiment.model, vocab_size=vocabulary, item_input=item_input)
    return dataclasses.replace(model, num_nodes=divisible(num_nodes)) if histories.whole_items else model


def _writing_docids(experiment: BaseExperiment, vocabulary: int, codec: DocidCodec, num_nodes: int) -> T5Config:
    return dataclasses.replace(
        experiment.model,
        vocab_size=vocabulary,
        decoder_vocab_size=divisible(codec.vocab_size),
        num_nodes=divisible(num_nodes),
    )
