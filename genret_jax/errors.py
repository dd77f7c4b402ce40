"""The exceptions that are meant for the person at the keyboard."""

import os
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used; the message says where, what, and what to do.

    Raised where the input enters. The command line prints it as one line and exits with 2, without a traceback.

    Args:
        found: What is wrong, as a phrase: ``"record without '_id'"``.
        file: The file or folder it was found in.
        line: One-based line number in ``file``.
        expected: What should have been there.
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
        """Return the arguments that make the same error elsewhere, as JSON values."""
        file = None if self.file is None else os.fspath(self.file)
        return {"found": self.found, "file": file, "line": self.line, "expected": self.expected, "fix": self.fix}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword arguments, so that worker processes can raise it."""
        return _rebuild, (type(self), self.found, self.file, self.line, self.expected, self.fix)


class CollapsedError(InputError):
    """A codebook came out of training with few of its codes in use."""


def _rebuild(
    kind: type[InputError], found: str, file: Any, line: int | None, expected: str | None, fix: str | None
) -> InputError:
    return kind(found, file=file, line=line, expected=expected, fix=fix)


class LostProcessError(RuntimeError):
    """Another process of the run ended or cannot be reached; to start all of them again may be enough.

    The command line prints it as one line and exits with 75, which by convention says: try again.

    Args:
        found: What happened, as a phrase.
        fix: The next step, as an imperative phrase.
    """

    def __init__(self, found: str, *, fix: str):
        super().__init__(f"{found}; next: {fix}")


def nearest(name: str, known: Any) -> str:
    """Return ``"; did you mean 'x'?"``-style text for a misspelt name, or an empty string."""
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'?" if matches else ""
