"""What tests of fitted docids share."""

from collections.abc import Iterator
from unittest import mock

import jax
import pytest


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Not eight, as every device compiles for itself; test_streaming.py spreads pieces over all of them."""
    with mock.patch.object(jax, "local_devices", return_value=jax.local_devices()[:1]):
        yield
