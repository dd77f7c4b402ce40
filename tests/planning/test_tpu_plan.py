"""Training and constrained decoding compiled for a slice of TPUs that is not here, by the TPU's own compiler."""

import importlib.util
import json
import subprocess
import sys

import pytest

PLAN = [sys.executable, "-m", "genret_jax", "plan", "--device", "tpu-v5e", "--devices", "4", "--mesh", "2x2"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU's compiler is not installed: pip install libtpu"
)
def test_training_and_search_compile_for_a_slice(tmp_path):
    path = tmp_path / "plan.json"
    options = ["--documents", "500", "--beams", "4", "--gin.TrainerConfig.batch_size=16", "--json", str(path)]
    result = subprocess.run([*PLAN, *options], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    plan = json.loads(path.read_text())
    assert plan["compiled_by"] == "the TPU compiler"
    for part in ("training", "decoding"):
        sizes = plan[part]["bytes_a_device"]
        assert sizes["program"] > 0
        assert sizes["total"] > sizes["parameters"] + sizes["temporaries"]
        assert plan[part]["flops"] > 0.5 * plan[part]["analytic_flops"]
    assert plan["training"]["collective_bytes"]["all-reduce"] > 0
    assert plan["does_not_fit"] == []


def test_without_libtpu_it_is_said_how_to_get_it(monkeypatch):
    from genret_jax.errors import InputError
    from genret_jax.planning.devices import DEVICES, planned_devices

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed; next: pip install libtpu"):
        planned_devices(DEVICES["tpu-v5e"], 4)
