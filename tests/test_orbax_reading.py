import pytest

from genret_jax.orbax_reading import read_through_orbax


def test_a_platform_that_is_missing_is_no_fault_of_the_checkpoint(tmp_path):
    """The command line says which variable to unset; a message about the checkpoint would lead away from it."""

    def read():
        raise RuntimeError("Unable to initialize backend 'tpu': libtpu.so is missing (set JAX_PLATFORMS=)")

    with pytest.raises(RuntimeError, match=r"^Unable to initialize backend 'tpu'"):
        read_through_orbax(tmp_path, read)
