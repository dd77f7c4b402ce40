"""All parameters of any network in one safetensors file, by their names, with the network described as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from genret_jax.models.config import T5Config
from genret_jax.storage import atomic_folder, write_json

WEIGHTS, DESCRIPTION = "model.safetensors", "network.json"


def save_named_arrays(
    folder: str | Path, params: Mapping[str, Any], config: T5Config, described: Mapping[str, Any]
) -> None:
    """Write parameters in float32 by names such as ``encoder/layers_0/wi/map/kernel``.

    Args:
        folder: Folder to create; it must not exist.
        params: The parameters.
        config: Their configuration, which becomes the entry ``network`` of ``network.json``.
        described: Further JSON values of that file.

    Raises:
        InputError: If something is at ``folder``, or the disk is full.
    """
    arrays = {
        name: np.ascontiguousarray(array, dtype=np.float32)
        for name, array in sorted(flatten_dict(params, sep="/").items())
    }
    with atomic_folder(folder) as partial:
        save_file(arrays, partial / WEIGHTS)
        write_json(partial / DESCRIPTION, {**described, "network": asdict(config)})
