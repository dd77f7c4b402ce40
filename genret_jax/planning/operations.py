"""Count the operations of a network's matrix products by formula, to check the compiler's counts.

Multiplying a token's vector by a matrix takes 2 operations per parameter. Training does so three times, once forward
and twice backward: the 6 N of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1). The parameters of each stack count
for the tokens of that stack, and the attention scores are added.
"""

from genret_jax.models.config import T5Config

_FORWARD_AND_BACKWARD = 3


def training_operations(config: T5Config, batch: int, inputs: int, targets: int) -> int:
    """Return the operations of the matrix products of a training step, summed over all devices.

    Args:
        config: The network. A prefix head counts at the first position only: there its output is a matrix product, at
            later positions it gathers rows.
        batch: Number of rows.
        inputs: Number of encoder tokens of a row.
        targets: Number of decoder tokens of a row.
    """
    encoder = config.num_encoder_layers * _encoder_layer(config, inputs)
    decoder = config.num_decoder_layers * (
        _decoder_layer(config, targets, attended=targets, inputs=inputs) + _cross_keys(config, inputs)
    )
    written = targets if config.head == "vocabulary" else 1
    output = 2 * written * config.d_model * config.output_vocab_size
    return _FORWARD_AND_BACKWARD * batch * (encoder + decoder + output + _adaptive_decoder(config, targets))


def decoding_operations(config: T5Config, queries: int, inputs: int, beams: int, length: int) -> int:
    """Return the operations of the matrix products of a batch of searches, summed over all devices.

    Args:
        config: The network.
        queries: Number of queries searched together.
        inputs: Number of tokens of a query.
        beams: Number of beams after the first position, which has one.
        length: Number of tokens of a docid.
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
    """Count self-attention, cross-attention without its keys and values, and the feed-forward layer."""
    parameters = 6 * config.d_model * _width(config) + _mlp(config)
    return 2 * tokens * parameters + _scores(config, tokens, attended) + _scores(config, tokens, inputs)


def _adaptive_decoder(config: T5Config, tokens: int) -> int:
    """Count the layers and the product with the adaptive matrix; in training only, since a search has it folded in."""
    if not config.adaptive_layers:
        return 0
    rank = config.adaptive_width or config.d_model
    narrowing = config.d_model * rank if config.adaptive_width else 0
    return config.adaptive_layers * _encoder_layer(config, tokens) + 2 * tokens * (
        narrowing + (rank + 1) * config.d_model**2
    )


def _cross_keys(config: T5Config, inputs: int) -> int:
    return 2 * inputs * 2 * config.d_model * _width(config)


def _scores(config: T5Config, queries: int, keys: int) -> int:
    """Count the products of queries with keys and of weights with values."""
    return 2 * 2 * queries * keys * _width(config)


def _mlp(config: T5Config) -> int:
    return (len(config.activations) + 1) * config.d_model * config.d_ff


def _width(config: T5Config) -> int:
    return config.num_heads * config.d_kv
