"""What the parent says when its child ends, in processes that start in no time because nothing imports jax."""

import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import os, signal, sys, time
from genret_jax.parallel.cluster import Cluster
from genret_jax.parallel.supervision import supervised

def work(tell):
    {work}

cluster = Cluster(coordinator="127.0.0.1:1", processes=2, process=1)
code = supervised(cluster, work)
assert "jax" not in sys.modules
sys.exit(code)
"""


def run(work):
    return subprocess.run([sys.executable, "-c", CHILD.format(work=work)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("work", "code", "message"),
    [
        ("print('done'); return 0", 0, ""),
        ("print('no', file=sys.stderr); return 2", 2, "no\n"),
        ("raise RuntimeError('a mistake of ours')", 1, "Traceback (most recent call last):\n"),
        (
            "os.abort()",
            75,
            "genret: error: process 1 of 2 waited 45 s and not all processes arrived at 127.0.0.1:1; next: start ",
        ),
        (
            "tell('joined'); os.abort()",
            75,
            "genret: error: the runtime ended process 1 of 2 (SIGABRT), because another process died, or gave no sign ",
        ),
        (
            "tell('joined'); os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "genret: error: process 1 of 2 was ended by SIGKILL; next: if nobody sent it, look for a lack of memory; ",
        ),
    ],
)
def test_how_a_child_ends(work, code, message):
    result = run(work)
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith(message)
    if code != 1:
        assert result.stderr.count("\n") == (1 if message else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_child_once(number):
    work = f"""
    got = []
    signal.signal({int(number)}, lambda *_: got.append(1))
    print('ready', flush=True)
    while not got: time.sleep(0.01)
    time.sleep(0.2)
    print(len(got)); return 130
    """
    process = subprocess.Popen([sys.executable, "-c", CHILD.format(work=work)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "1\n"
    assert process.returncode == 130
