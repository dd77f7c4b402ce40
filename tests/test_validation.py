"""Types and limits of configuration fields."""

import dataclasses
import math
from typing import Annotated

import pytest

from genret_jax.errors import InputError
from genret_jax.validation import at_least, check_fields, from_to, more_than


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    levels: Annotated[int, at_least(1)] = 3
    weight: Annotated[float, at_least(0)] = 1.0
    memory: Annotated[float, more_than(0)] = 4.0
    digits: Annotated[int, from_to(1, 24)] = 8

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("levels", 0, "at least 1"),
        ("levels", 2.5, "int"),
        ("levels", True, "int"),
        ("weight", -0.1, "0 or more"),
        ("weight", math.nan, "0 or more"),
        ("memory", 0, "more than 0"),
        ("digits", 0, "from 1 to 24"),
        ("digits", 25, "from 1 to 24"),
    ],
)
def test_a_value_of_another_type_or_beyond_the_limits_is_refused(field, value, expected):
    with pytest.raises(InputError) as caught:
        Settings(**{field: value})
    assert caught.value.found == f"Settings.{field} is {value!r}"
    assert caught.value.expected == expected


def test_the_limits_belong_to_what_is_allowed():
    assert Settings(levels=1, weight=0, memory=1e-9, digits=24).digits == 24
