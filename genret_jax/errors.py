"""Exceptions whose message is meant for the user."""

import errno
import os
from typing import Any

_FREE_SPACE = "free some space or choose another folder, then run again"
_CLOSE_FILES = "allow more open files (ulimit -n) or stop other programs, then run again"
_CHECK_PERMISSIONS = "change the permissions or choose another path"
#: Failures of the operating system that a user can end, by their number, each with the next step.
NEXT_STEPS = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "allow larger files (ulimit -f) or choose another file system, then run again",
    errno.EMFILE: _CLOSE_FILES,
    errno.ENFILE: _CLOSE_FILES,
    errno.ENOMEM: "free some memory, then run again",
    errno.EACCES: _CHECK_PERMISSIONS,
    errno.EPERM: _CHECK_PERMISSIONS,
    errno.EROFS: "choose a folder that can be written",
    errno.EIO: "check the disk, then run again",
    errno.ESTALE: "mount the file system again, then run again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose a path whose folders are folders",
    errno.EISDIR: "give a file",
    errno.ELOOP: "remove the link that leads to itself",
}


class InputError(ValueError):
    """The user's input cannot be used; the message names the file, the problem and the next step.

    Raised where the input enters. The command line prints it as one line and exits with 2, without a traceback.

    Args:
        found: The problem, as a phrase: ``"record without '_id'"``.
        file: The file or folder with the problem.
        line: One-based line number in ``file``.
        expected: The right input, as a phrase.
        fix: The next step, as an imperative phrase.
    """

    def __init__(
        self,
        found: str,
        *,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ):
        self.found, self.file, self.line, self.expected, self.fix = found, file, line, expected, fix
        where = "" if file is None else f"{os.fspath(file)}{'' if line is None else f':{line}'}: "
        parts = [f"{where}{found}"]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(f"next: {fix}")
        super().__init__("; ".join(" ".join(part.split()) for part in parts))

    def fields(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values, to raise the same error in another process."""
        file = None if self.file is None else os.fspath(self.file)
        return {"found": self.found, "file": file, "line": self.line, "expected": self.expected, "fix": self.fix}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword arguments, so that worker processes can raise it."""
        return _rebuild, (type(self), self.found, self.file, self.line, self.expected, self.fix)


def os_failure(error: OSError, path: str | os.PathLike[str]) -> InputError:
    """Convert an error of the operating system to an InputError that names the next step.

    Args:
        error: The failure.
        path: The file or folder that was worked on, for errors that name none.
    """
    named = error.filename if isinstance(error.filename, (str, os.PathLike)) else None
    file = path if named is None or ".partial-" in os.fspath(named) else named
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    found = "no space left on the disk" if is_full else error.strerror or str(error)
    return InputError(found, file=file, fix=NEXT_STEPS.get(error.errno or 0, "check the path"))


class CollapsedError(InputError):
    """A trained codebook uses few of its codes."""


def _rebuild(
    kind: type[InputError], found: str, file: Any, line: int | None, expected: str | None, fix: str | None
) -> InputError:
    return kind(found, file=file, line=line, expected=expected, fix=fix)


class LostProcessError(RuntimeError):
    """Another process of the run ended or cannot be reached; starting all of them again may be enough.

    The command line prints it as one line and exits with 75, by convention the code for "try again".

    Args:
        found: The event, as a phrase.
        fix: The next step, as an imperative phrase.
    """

    def __init__(self, found: str, *, fix: str):
        super().__init__(f"{found}; next: {fix}")


def nearest(name: str, known: Any) -> str:
    """Return ``"; did you mean 'x'?"``-style text for a misspelt name, or an empty string."""
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else ""
