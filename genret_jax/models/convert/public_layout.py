"""The layout of T5 in Hugging Face transformers: ``config.json``, and the names and shapes of the tensors."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config

# transformers' name of the feed-forward layer -> our activations; both mean GELU's tanh approximation.
_FEED_FORWARD = {
    "gated-gelu": ("gelu", "linear"),
    "gated-gelu_new": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "silu": ("silu",),
}
_SHARED_FIELDS = (
    "vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "dropout_rate", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon",
)  # fmt: skip


def config_from_json(described: Mapping[str, Any], *, tie_embeddings: bool, file: str | Path | None = None) -> T5Config:
    """Return the configuration that a transformers ``config.json`` describes.

    Args:
        described: Parsed content of the file.
        tie_embeddings: Whether the embedding is the output layer too.
        file: The file, for error messages.

    Raises:
        InputError: If the content does not describe a T5 that this package supports.
    """
    kind = described.get("model_type")
    if kind not in ("t5", "mt5"):
        raise InputError(f"model_type {kind!r}", file=file, expected="'t5' or 'mt5'", fix="choose a T5 checkpoint")
    activation = described.get("feed_forward_proj", "relu")
    if not isinstance(activation, str) or activation not in _FEED_FORWARD:
        expected = f"one of {', '.join(_FEED_FORWARD)}"
        raise InputError(f"feed_forward_proj {activation!r}", file=file, expected=expected, fix="choose another model")
    missing = [name for name in ("vocab_size", "d_model", "num_layers", "num_heads") if name not in described]
    if missing:
        raise InputError(f"no {missing[0]!r}", file=file, expected="transformers' T5 configuration", fix="restore it")
    scaled = described.get("scale_decoder_outputs", described.get("tie_word_embeddings") is not False)
    decoder_layers = described.get("num_decoder_layers")
    return config_of_file(
        file,
        **{name: described[name] for name in _SHARED_FIELDS if name in described},
        num_encoder_layers=described["num_layers"],
        num_decoder_layers=described["num_layers"] if decoder_layers is None else decoder_layers,
        activations=_FEED_FORWARD[activation],
        tie_embeddings=tie_embeddings,
        scale_decoder_outputs=scaled,
    )


def config_of_file(file: str | Path | None, **fields: Any) -> T5Config:
    """Return the configuration with these fields, which were read from a file.

    Raises:
        InputError: If a value is impossible; the message names the file.
    """
    try:
        return T5Config(**fields)
    except InputError as error:
        raise InputError(error.found, file=file, expected=error.expected, fix="download the file again") from None


def config_to_json(config: T5Config) -> dict[str, Any]:
    """Return the content of transformers' ``config.json`` for a configuration.

    Raises:
        InputError: If the network departs from T5; the message names the field.
    """
    require_public_network(config)
    names = [name for name, activations in _FEED_FORWARD.items() if activations == config.activations]
    if not names:
        raise InputError(
            f"T5Config.activations is {config.activations}, which public T5 layouts cannot express",
            expected=" or ".join(map(str, dict.fromkeys(_FEED_FORWARD.values()))),
            fix="keep this model in its run folder",
        )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **{name: getattr(config, name) for name in _SHARED_FIELDS},
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": names[0],
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.scale_decoder_outputs,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def require_public_network(config: T5Config) -> None:
    """Refuse a network that departs from T5, because no public layout can describe it.

    Raises:
        InputError: If the network departs from T5; the message names the field.
    """
    for field, value in (
        ("encoder", None),
        ("plan", None),
        ("head", "vocabulary"),
        ("decoder_vocab_size", None),
        ("encoder_final_norm", True),
        ("item_input", None),
        ("adaptive_layers", 0),
    ):
        found = getattr(config, field)
        if found != value:
            said = f"a {type(found).__name__}" if is_dataclass(found) else repr(found)
            raise InputError(
                f"T5Config.{field} is {said}, which public T5 layouts cannot express",
                expected=repr(value),
                fix="keep this model in its run folder, or export it with --layout safetensors",
            )


def tensor_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a public checkpoint, by its name in transformers."""
    return {name: tensor_shape(config, name) for name in tensor_paths(config)}


def tensor_paths(config: T5Config) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Map each tensor's name in transformers to the path of our parameter, and to whether that is its transpose."""
    layout: dict[str, tuple[tuple[str, ...], bool]] = {"shared.weight": (("token_embedder", "embedding"), False)}
    gated = len(config.activations) > 1
    stacks = (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers))
    for stack, depth in stacks:
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        layout[bias] = ((stack, "relpos_bias", "rel_embedding"), True)
        layout[f"{stack}.final_layer_norm.weight"] = ((stack, f"{stack}_norm", "scale"), False)
        own = "attention" if stack == "encoder" else "self_attention"
        for number in range(depth):
            layer = (stack, f"layers_{number}")
            block = f"{stack}.block.{number}.layer"
            attentions = [("SelfAttention", own, f"pre_{own}_layer_norm")]
            if stack == "decoder":
                attentions.append(("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm"))
            for index, (theirs, ours, norm) in enumerate(attentions):
                layout[f"{block}.{index}.layer_norm.weight"] = ((*layer, norm, "scale"), False)
                for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                    layout[f"{block}.{index}.{theirs}.{short}.weight"] = ((*layer, ours, name, "kernel"), True)
            last = len(attentions)
            layout[f"{block}.{last}.layer_norm.weight"] = ((*layer, "pre_mlp_layer_norm", "scale"), False)
            for name in ("wi_0", "wi_1", "wo") if gated else ("wi", "wo"):
                layout[f"{block}.{last}.DenseReluDense.{name}.weight"] = ((*layer, "mlp", name, "kernel"), True)
    if not config.tie_embeddings:
        layout["lm_head.weight"] = (("decoder", "logits_dense", "kernel"), True)
    return layout


def tensor_shape(config: T5Config, name: str, flip: bool = False) -> tuple[int, ...]:
    """Return the shape of one tensor.

    Args:
        config: The network.
        name: Name of the tensor in transformers.
        flip: Return the shape of the transpose, which is the shape of our parameter.
    """
    heads_width = config.num_heads * config.d_kv
    kind = name.split(".")[-2]
    shapes: dict[str, tuple[int, ...]] = {
        "shared": (config.vocab_size, config.d_model),
        "lm_head": (config.vocab_size, config.d_model),
        "relative_attention_bias": (config.relative_attention_num_buckets, config.num_heads),
        "o": (config.d_model, heads_width),
        "wo": (config.d_model, config.d_ff),
        **dict.fromkeys(("q", "k", "v"), (heads_width, config.d_model)),
        **dict.fromkeys(("wi", "wi_0", "wi_1"), (config.d_ff, config.d_model)),
        **dict.fromkeys(("layer_norm", "final_layer_norm"), (config.d_model,)),
    }
    return shapes[kind][::-1] if flip else shapes[kind]
