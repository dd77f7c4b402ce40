"""The reproduction of TIGER's table, the whole way on a made-up shop."""

import os
import subprocess
import sys
from pathlib import Path

from genret_jax.evaluation.report import Report


def test_tigers_table_on_a_made_up_shop(repository, tmp_path):
    genret = str(Path(sys.executable).parent / "genret")
    one_device = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    environment = {**os.environ, "GENRET": genret, "IDS": "rq_vae", "XLA_FLAGS": one_device}
    script = ["bash", str(repository / "scripts/reproduce/tiger_beauty.sh"), "--smoke", str(tmp_path / "out")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = Report.load(tmp_path / "out" / "report" / "report.json")
    found = {m.system: m.metrics["recall@10"].mean for m in report.measurements}
    assert set(found) > {"popularity", "SASRec, full softmax", "rq_vae", "rq_vae, untrained"}
    kept = Report.load(tmp_path / "out" / "report-history-kept" / "report.json")
    assert {m.system for m in kept.measurements} == set(found)
    assert found["rq_vae"] > found["popularity"], "the steps are enough to see what follows what"


def test_it_says_how_it_is_called(repository):
    script = repository / "scripts/reproduce/tiger_beauty.sh"
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tiger_beauty.sh DATA OUT [STEPS]" in done.stderr
