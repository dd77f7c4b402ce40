"""Files of a repository on the Hugging Face hub, by plain HTTPS."""

import contextlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any

from genret_jax.errors import InputError

ENDPOINT = "https://huggingface.co"
BY_HAND = "download the folder by hand, on another machine if need be, and give its path instead of the name"
_CHUNK = 1 << 20
_FIRST_TIMEOUT = 5.0  # seconds, for each address of the host: without a hub, the package index is next
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 4
_SHORTEST_PAUSE = 1.0  # seconds before the second try; doubles with each
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


class Unavailable(Exception):
    """A place to download from does not answer, or does not give what is asked for; another place may.

    Args:
        reason: The reason, as a phrase.
        fix: The next step if there is no other place; None for the usual one.
    """

    def __init__(self, reason: str, fix: str | None = None):
        super().__init__(reason)
        self.fix = fix


class Hub:
    """A repository on the hub, or on a mirror that the environment variable ``HF_ENDPOINT`` names.

    Attributes:
        revision: The branch ``main`` until the hub has said which commit that is, then this commit.
        sha256: Hash that the hub gives for each file that it stores as a large file, by name.
    """

    def __init__(self, repository: str):
        self.endpoint = (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise InputError(f"HF_ENDPOINT is {self.endpoint!r}", expected="an address such as https://huggingface.co")
        self.repository, self.revision = repository, "main"
        self.sha256: dict[str, str] = {}
        self._has_answered = False

    @property
    def source(self) -> str:
        """Address of the repository."""
        return f"{self.endpoint}/{self.repository}"

    def fetch(self, name: str, path: Path) -> bool:
        """Download a file. A transfer that breaks off is tried again, from where it stopped.

        Args:
            name: Name of the file in the repository.
            path: File to write.

        Returns:
            Whether the repository has such a file.

        Raises:
            Unavailable: If the hub does not answer, refuses the repository, or breaks off too often.
        """
        with open(path, "wb") as handle:
            for number in range(_TRIES):
                if number:
                    time.sleep(_SHORTEST_PAUSE * 2 ** (number - 1))
                try:
                    self._transfer(name, handle)
                    return True
                except FileNotFoundError:
                    path.unlink()
                    return False
                except Unavailable:
                    if not self._has_answered or number == _TRIES - 1:
                        raise
        raise AssertionError("the last try returns or raises")

    def _transfer(self, name: str, handle: IO[bytes]) -> None:
        """Append the rest of a file; raise FileNotFoundError if the repository has none of this name."""
        from tqdm import tqdm

        start = handle.tell()
        with self._opened(name, start) as response:
            if start and response.status != http.client.PARTIAL_CONTENT:
                start = handle.seek(0)
                handle.truncate()
            size = start + int(response.headers.get("Content-Length") or 0)
            options = {"unit": "B", "unit_scale": True, "leave": False, "delay": 0.5}
            with tqdm(total=size, initial=start, desc=name, disable=None, **options) as bar:
                while chunk := _read(response):
                    handle.write(chunk)
                    bar.update(len(chunk))
        if handle.tell() < size:
            raise Unavailable(f"the transfer of {name} broke off")

    @contextlib.contextmanager
    def _opened(self, name: str, start: int) -> Iterator[Any]:
        headers = {"User-Agent": "genret_jax", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(f"{self.source}/resolve/{self.revision}/{name}", headers=headers)
        redirects = _Redirects()
        opener = urllib.request.build_opener(redirects)
        try:
            response = opener.open(request, timeout=_TIMEOUT if self._has_answered else _FIRST_TIMEOUT)
        except urllib.error.HTTPError as error:
            raise self._failure(error, name) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(_reason(error)) from None
        with response:
            if response.headers.get_content_type() == "text/html":
                raise Unavailable("it answers with a web page")
            self._note([*redirects.headers, response.headers], name)
            yield response

    def _note(self, answers: list[Message], name: str) -> None:
        """Keep the commit and the hash that the hub gives; a large file comes from another host, which has neither."""
        self._has_answered = True
        for headers in answers:
            if _COMMIT.fullmatch(commit := headers.get("X-Repo-Commit", "")):
                self.revision = commit
            if _SHA256.fullmatch(digest := headers.get("X-Linked-ETag", "").strip('"')):
                self.sha256[name] = digest

    def _failure(self, error: urllib.error.HTTPError, name: str) -> Exception:
        """Return the meaning of an HTTP status: a missing file, a refused repository, or no hub."""
        code = error.headers.get("X-Error-Code", "")
        error.close()
        if code == "GatedRepo":
            return Unavailable("it asks for an account", f"log in to {self.source}, {BY_HAND}")
        if error.code == 401 or code in ("RepoNotFound", "RevisionNotFound"):
            return Unavailable("it has no such repository, or a private one", f"check the name, or {BY_HAND}")
        if error.code == 404:
            self._has_answered = True
            return FileNotFoundError(name)
        return Unavailable(f"HTTP status {error.code}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, and keeps the headers of the answers that redirect."""

    def __init__(self) -> None:
        self.headers: list[Message] = []

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Keep the headers and go on as usual."""
        self.headers.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read(_CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return a short reason: ``"Name or service not known"``."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
