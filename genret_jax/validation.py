"""Checks of configuration dataclasses: gin accepts any value for any field, so the dataclasses check themselves."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Union

from genret_jax.errors import InputError, nearest


class Limit(NamedTuple):
    """Limit of a number, beside the type of a field: ``width: Annotated[int, at_least(1)] | None = None``.

    Attributes:
        allows: Returns whether a number is allowed.
        expected: The allowed numbers, as a phrase.
    """

    allows: Callable[[Any], bool]
    expected: str


def at_least(least: int | float) -> Limit:
    """Allow a number and all larger ones."""
    return Limit(lambda value: value >= least, f"at least {least}" if least else "0 or more")


def more_than(bound: int | float) -> Limit:
    """Allow all numbers that are larger than one."""
    return Limit(lambda value: value > bound, f"more than {bound}")


def at_most(most: int | float) -> Limit:
    """Allow a number and all smaller ones."""
    return Limit(lambda value: value <= most, f"at most {most}")


def less_than(bound: int | float) -> Limit:
    """Allow all numbers that are smaller than one."""
    return Limit(lambda value: value < bound, f"less than {bound}")


def from_to(least: int | float, most: int | float) -> Limit:
    """Allow two numbers and all between them."""
    return Limit(lambda value: least <= value <= most, f"from {least:,} to {most:,}")


def check_fields(config: Any) -> None:
    """Check every field of a dataclass instance against its annotation; call this first in ``__post_init__``.

    Annotations of bool, int, float (which accepts an int), str, None, tuples, ``Literal``, unions and classes are
    checked, and so are the limits of ``Annotated``; others are not.

    Raises:
        InputError: Naming the class, the field, the value found and the type expected.
    """
    hints, types_alone = typing.get_type_hints(type(config), include_extras=True), typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), types_alone[field.name]
        if not _matches(value, hint):
            reject(config, field.name, _describe(hint, value))
        if value is not None:
            or_none = ", or None" if _matches(None, hint) else ""
            for limit in _limits(hints[field.name]):
                require(config, field.name, limit.allows(value), limit.expected + or_none)


def reject(config: Any, field: str, expected: str) -> typing.NoReturn:
    """Raise an :class:`InputError` about one field of a configuration."""
    name = type(config).__name__
    raise InputError(f"{name}.{field} is {getattr(config, field)!r}", expected=expected, fix=f"change {name}.{field}")


def require(config: Any, field: str, condition: bool, expected: str) -> None:
    """Reject a field unless the condition holds."""
    if not condition:
        reject(config, field, expected)


def _limits(hint: Any) -> list[Limit]:
    """Return the limits of a field that is a number, or a number or None."""
    if typing.get_origin(hint) is Annotated:
        return [limit for limit in typing.get_args(hint)[1:] if isinstance(limit, Limit)]
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [limit for option in typing.get_args(hint) for limit in _limits(option)]
    return []


def _matches(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_matches(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(_matches(i, a) for i, a in zip(value, arguments, strict=True))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if getattr(hint, "_is_protocol", False):
        checkable = getattr(hint, "_is_runtime_protocol", False)
        return not checkable or (isinstance(value, hint) and not isinstance(value, type))
    return not isinstance(hint, type) or isinstance(value, hint)


def _describe(hint: Any, value: Any) -> str:
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        hinted = nearest(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else ""
        return f"one of {', '.join(map(repr, options))}{f' ({hinted})' if hinted else ''}"
    return getattr(hint, "__name__", str(hint)).replace("NoneType", "None")
