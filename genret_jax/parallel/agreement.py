"""Check before a run that all its processes have the same configuration, versions and code."""

from collections.abc import Mapping
from pathlib import Path

from genret_jax.errors import InputError
from genret_jax.parallel.coordination import gather
from genret_jax.storage import fingerprint


def code_fingerprint() -> str:
    """Return a digest of this package's source files."""
    import genret_jax

    package = Path(genret_jax.__file__).parent
    files = sorted(package.rglob("*.py"))
    return fingerprint(*(part for file in files for part in (file.relative_to(package).as_posix(), file.read_bytes())))


def require_agreement(facts: Mapping[str, str]) -> None:
    """Compare facts over the processes.

    Args:
        facts: Values that must be the same in all processes, by the name that a message uses.

    Raises:
        InputError: In every process, if one differs from process 0.
    """
    everyone = gather(dict(facts))
    for process, found in enumerate(everyone):
        different = [name for name in {**everyone[0], **found} if found.get(name) != everyone[0].get(name)]
        if different:
            name = different[0]
            more = f" and {len(different) - 1} more differences" if len(different) > 1 else ""
            raise InputError(
                f"process {process} has {name} = {found.get(name)}, process 0 has {everyone[0].get(name)}{more}",
                expected="the same configuration and versions in every process",
                fix="give every process the same options and the same installation, then start them all again",
            )
