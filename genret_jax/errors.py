"""Exceptions whose message is meant for the user."""

import os
from typing import Any


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
