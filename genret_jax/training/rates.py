"""Learning rates of parts of the parameters: factors by path, of which 0 keeps a part as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError, nearest

Params = dict[str, Any]
#: Pairs of a path and the factor of the learning rate below it.
Factors = Sequence[tuple[str, float]]


def divided(params: Mapping[str, Any], factors: Factors) -> tuple[Params, Params]:
    """Return the parameters that training changes, and those that it keeps.

    Raises:
        InputError: If a path names no parameters.
    """
    flat = flatten_dict(params, sep="/")
    for path, _ in factors:
        if not any(_is_below(name, path) for name in flat):
            raise InputError(
                f"TrainerConfig.learning_rates names '{path}', which is no part of the parameters",
                expected=f"paths such as {', '.join(params)}",
                fix=nearest(path, params) or "change the path",
            )
    kept = {name for name in flat if _factor(name, factors) == 0}
    parts = ({name: leaf for name, leaf in flat.items() if (name in kept) == keep} for keep in (False, True))
    trained, frozen = (unflatten_dict(part, sep="/") for part in parts)
    return trained, frozen


def joined(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Return all parameters again."""
    if not frozen:
        return dict(trained)
    whole: Params = unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))
    return whole


def with_factors(optimizer: optax.GradientTransformation, factors: Factors) -> optax.GradientTransformation:
    """Return an optimizer whose updates of some parameters are scaled."""
    if all(factor in (0, 1) for _, factor in factors):
        return optimizer

    def labels(params: Params) -> Params:
        flat = flatten_dict(params, sep="/")
        named: Params = unflatten_dict({name: str(_factor(name, factors)) for name in flat}, sep="/")
        return named

    scales = {str(float(factor)): float(factor) for _, factor in (("", 1.0), *factors)}
    transforms = {name: optax.chain(optimizer, optax.scale(scale)) for name, scale in scales.items()}
    return optax.multi_transform(transforms, labels)


def scaled_changes(before: Any, after: Any, factors: Factors) -> Any:
    """Return parameters whose changes in one update are scaled, for optimizers that are not Optax's.

    Args:
        before: Parameters before the update.
        after: Parameters after it.
        factors: Factors of the learning rate.
    """

    def scaled(path: Any, old: jax.Array, new: jax.Array) -> jax.Array:
        factor = _factor("/".join(key.key for key in path), factors)
        return {0.0: old, 1.0: new}[factor] if factor in (0, 1) else old + factor * (new - old)

    return jax.tree_util.tree_map_with_path(scaled, before, after)


def _factor(name: str, factors: Factors) -> float:
    fitting = [(len(path), factor) for path, factor in factors if _is_below(name, path)]
    return float(max(fitting)[1]) if fitting else 1.0


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}/")
