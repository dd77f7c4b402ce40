"""Operations of a network's matrix products, counted by hand: a check of what a compiler counts.

A product of a token with a matrix is 2 operations a parameter, and training makes three such products for each: one
forward, two backward, which is the 6 N of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1). Each stack's parameters
count for its own tokens, and the scores of attention are added.
"""

from genret_jax.models.config import T5Config

_FORWARD_AND_BACKWARD = 3


def training_operations(config: T5Config, batch: int, inputs: int, targets: int) -> int:
    """Return the operations of the matrix products of a training step, over all devices.

    Args:
        config: The network. Of a prefix head's output layer only the first position counts, which is a product; the
            others gather.
        batch: Rows.
        inputs: Encoder tokens a row.
        targets: Decoder tokens a row.
    """
    encoder = config.num_encoder_layers * _encoder_layer(config, inputs)
    decoder = config.num_decoder_layers * (
        _decoder_layer(config, targets, attended=targets, inputs=inputs) + _cross_keys(config, inputs)
    )
    written = targets if config.head == "vocabulary" else 1
    output = 2 * written * config.d_model * config.output_vocab_size
    return _FORWARD_AND_BACKWARD * batch * (encoder + decoder + output + _adaptive_decoder(config, targets))


def decoding_operations(config: T5Config, queries: int, inputs: int, beams: int, length: int) -> int:
    """Return the operations of the matrix products of a batch of searches, over all devices.

    Args:
        config: The network.
        queries: Searched together.
        inputs: Tokens of a query.
        beams: Of the search; at the root there is one.
        length: Tokens of a docid.
    """
    encoder = config.num_encoder_layers * _encoder_layer(config, inputs)
    cross = config.num_decoder_layers * _cross_keys(config, inputs)
    tokens = 1 + beams * (length - 1)
    decoder = config.num_decoder_layers * _decoder_layer(config, tokens, attended=length, inputs=inputs)
    written = tokens if config.head == "vocabulary" else 1
    return queries * (encoder + cross + decoder + 2 * written * config.d_model * config.output_vocab_size)


def _encoder_layer(config: T5Config, tokens: int) -> int:
    parameters = 4 * config.d_model * _width(config) + _mlp(config)
    return 2 * tokens * parameters + _scores(config, tokens, tokens)


def _decoder_layer(config: T5Config, tokens: int, *, attended: int, inputs: int) -> int:
    """Self-attention, attention to the encoder without its keys and values, and feed-forward."""
    parameters = 6 * config.d_model * _width(config) + _mlp(config)
    return 2 * tokens * parameters + _scores(config, tokens, attended) + _scores(config, tokens, inputs)


def _adaptive_decoder(config: T5Config, tokens: int) -> int:
    """Layers, the matrix that they say, and its product with the decoder's state; in training, as a search folds it."""
    if not config.adaptive_layers:
        return 0
    said = config.adaptive_width or config.d_model
    narrowed = config.d_model * said if config.adaptive_width else 0
    return config.adaptive_layers * _encoder_layer(config, tokens) + 2 * tokens * (
        narrowed + (said + 1) * config.d_model**2
    )


def _cross_keys(config: T5Config, inputs: int) -> int:
    return 2 * inputs * 2 * config.d_model * _width(config)


def _scores(config: T5Config, asking: int, asked: int) -> int:
    """Queries with keys, and weights with values."""
    return 2 * 2 * asking * asked * _width(config)


def _mlp(config: T5Config) -> int:
    return (len(config.activations) + 1) * config.d_model * config.d_ff


def _width(config: T5Config) -> int:
    return config.num_heads * config.d_kv
