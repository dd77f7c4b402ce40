"""The real T5 at a size that compiles in seconds."""

from typing import Any

from genret_jax.models import T5Config


def tiny_t5(**fields: Any) -> T5Config:
    """Return a configuration of one layer each, width 16, without dropout.

    Args:
        **fields: Override these, or set others, such as ``head`` and ``num_nodes``.
    """
    small: dict[str, Any] = {
        "vocab_size": 32,
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "dropout_rate": 0.0,
    }
    return T5Config(**{**small, **fields})
