"""Count a deep network from shallow ones: its layers are alike, so what each adds is the same."""

import dataclasses
from collections.abc import Callable

from genret_jax.models.config import T5Config
from genret_jax.planning.counting import Counts

# Networks with more layers than this, encoder and decoder together, are counted from shallow ones.
MOST_COMPILED = 4

CountModel = Callable[[T5Config], Counts]


def count_by_layers(config: T5Config, count: CountModel, *, whole: bool = False) -> tuple[Counts, str]:
    """Count a network's program, compiling all of it or, if it is deep, its first layers and one more of each kind.

    Args:
        config: The network.
        count: Compiles the program of a network and counts it.
        whole: Compile all layers however many there are.

    Returns:
        The counts, and how they were come by.
    """
    layers = (config.num_encoder_layers, config.num_decoder_layers)
    if whole or sum(layers) <= MOST_COMPILED:
        return count(config), f"all {layers[0]} + {layers[1]} layers compiled"
    probes = [(2, 2)] if layers[0] == layers[1] else [(2, 1), (1, 2)]
    first = count(_of_depth(config, 1, 1))
    total = dict(first)
    for probe in probes:
        # Of two alike stacks both grow at once; otherwise one of them at a time.
        further = (layers[0] if probe[0] == 2 else layers[1]) - 1
        deeper = count(_of_depth(config, *probe))
        for name in total:
            total[name] += further * (deeper[name] - first[name])
    shallow = ", ".join(f"{encoder} + {decoder}" for encoder, decoder in [(1, 1), *probes])
    told = f"{shallow} layers compiled, {layers[0]} + {layers[1]} extrapolated linearly"
    return {name: max(value, 0.0) for name, value in total.items()}, told


def _of_depth(config: T5Config, encoder: int, decoder: int) -> T5Config:
    return dataclasses.replace(config, num_encoder_layers=encoder, num_decoder_layers=decoder)
