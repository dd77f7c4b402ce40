"""A hub of sentence encoders on this machine, and a wheel with one."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" * 6 + "c0ff"
WEIGHTS = bytes(range(256)) * 40_000  # 10 MB: several reads
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
FILES = {
    "modules.json": json.dumps(MODULES).encode(),
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "sentence_bert_config.json": b'{"max_seq_length": 9}',
    "README.md": b"---\nlanguage: en\nlicense: apache-2.0\n---\n# An encoder\n",
    "model.safetensors": WEIGHTS,
}


@dataclass
class EncoderHub:
    """Serves the files of any repository; large ones from another address, as the hub does.

    Attributes:
        files: Content by name.
        address: The address for ``HF_ENDPOINT``.
        linked: Hash that the hub gives for the weights; None for none.
        breaks: Transfers of the weights that break off half way, each after as many bytes.
        resumes: Whether it continues where a transfer broke off.
        status: HTTP status and error code of every answer, instead of files.
        asked: Paths of the requests, with the first byte that was asked for.
    """

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    address: str = ""
    linked: str | None = SHA256
    breaks: list[int] = field(default_factory=list)
    resumes: bool = True
    status: tuple[int, str] | None = None
    content_type: str = "application/octet-stream"
    asked: list[tuple[str, int]] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the names of the files that were asked for."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for path, _ in self.asked if "/resolve/" in path]


@contextmanager
def encoder_hub(**options: Any) -> Iterator[EncoderHub]:
    """Run a hub in a thread."""
    hub = EncoderHub(**options)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: EncoderHub

    def do_GET(self) -> None:
        hub, start = self.hub, int(self.headers.get("Range", "bytes=0-")[6:-1])
        hub.asked.append((self.path, start))
        is_large = self.path.startswith("/large/")
        name = self.path.removeprefix("/large/") if is_large else hub.names()[-1]
        if hub.status:
            self._head(hub.status[0], {"X-Error-Code": hub.status[1], "Content-Length": "0"})
        elif name not in hub.files:
            self._head(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})
        elif name == "model.safetensors" and not is_large:
            linked = {"X-Linked-ETag": f'"{hub.linked}"'} if hub.linked else {}
            headers = {"X-Repo-Commit": COMMIT, "Location": f"/large/{name}", "Content-Length": "0"}
            self._head(302, headers | linked)
        else:
            self._send(hub.files[name], start if hub.resumes else 0, is_large)

    def _send(self, content: bytes, start: int, is_large: bool) -> None:
        commit = {} if is_large else {"X-Repo-Commit": COMMIT}
        length = {"Content-Length": str(len(content) - start), "Content-Type": self.hub.content_type}
        self._head(206 if start else 200, length | commit)
        end = start + self.hub.breaks.pop(0) if is_large and self.hub.breaks else None
        self.wfile.write(content[start:end])
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """Write version 1.0 of a wheel that has an encoder's files in a folder, as pip finds it with ``PIP_FIND_LINKS``."""
    folder.mkdir(parents=True, exist_ok=True)
    file, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(f"{name}/model/{path}", content)
        archive.writestr(f"{name}/__init__.py", "raise RuntimeError('the wheel was imported')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file
