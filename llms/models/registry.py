"""The models of this machine: list, show, fetch and remove them, choose a default, see which are loaded.

    >>> from llms.models.registry import Registry, default_registry
    >>> [row.name for row in default_registry().rows()][:1]
    ['mistral-7b']

This file has data and actions; `agent models` prints them. Nothing is loaded here and torch is not imported,
so listing takes milliseconds. Names go through `Registry.resolve`, so a user's aliases work wherever a model
is named.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import psutil

from llms.errors import BadRequest, FetchFailed, LLMError, UnknownModel
from llms.models import hub, pretrained
from llms.models.catalog import (
    APPLICATION,
    AUTO,
    CATALOG,
    SMALL,
    CatalogEntry,
    ModelFile,
    Source,
    UserModels,
    cache_dir,
    find,
    resolve,
)
from llms.models.checkpoint import (
    Checkpoint,
    Notify,
    Progress,
    disk_errors,
    folder_bytes,
    no_progress,
    silent,
)
from llms.models.embedded import embedded_checkpoint
from llms.models.fetch import fetch, remove_file
from llms.models.gguf import converted, converted_path
from llms.models.gpu import free_gpu_bytes
from llms.models.memory import free_bytes, kv_bytes, weight_bytes
from llms.models.sources import gguf_file, locate_source
from llms.models.speed import read_rate, tokens_per_second

_OVERHEAD = 1_000_000_000
"""Bytes that `fits` adds to the weights: KV cache for 4,096 tokens of a 7B model, and workspace."""
_PROCESS = 150_000_000
"""Bytes of the process and its workspace next to a GGUF file and its KV cache."""
_NF4_BYTES = 0.57
"""Bytes per weight of Mistral-7B in NF4, with the embeddings in bf16: 4.14 GB / 7.25e9."""


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model of the list.

    Attributes:
        name: The name that `model=` takes.
        title: The name in prose.
        parameters: Number of weights; None if that is not known before the model is pulled.
        quantization: The quantization that `auto` chooses.
        size: Bytes on this disk; 0 if it is not on this machine.
        context: Longest sequence in tokens; None if it is not known.
        fits: `gpu`, `cpu` or `no`: the device that it fits on now; empty if that is not known.
        licence: SPDX identifier of the licence of the weights; empty if it is not known.
        download: Size of the file or repository in bytes; None if it is not known.
        memory: Bytes of memory that it takes with 4,096 tokens of KV cache; None if that is not known.
        tokens_per_second: Expected decoding speed on this machine's CPU; None if it was not measured.
        default: Whether it is the default.
        aliases: Other names of it.
    """

    name: str
    title: str
    parameters: int | None
    quantization: str
    size: int
    context: int | None
    fits: str
    default: bool
    aliases: tuple[str, ...] = ()
    licence: str = ""
    download: int | None = None
    memory: int | None = None
    tokens_per_second: float | None = None

    @property
    def present(self) -> bool:
        """Return whether it is on this machine."""
        return self.size > 0


@dataclass(frozen=True, kw_only=True)
class ModelDetails:
    """Everything about one model.

    Attributes:
        row: Its row of the list.
        source: Its source.
        folder: Its checkpoint; None if it is not on this machine.
        facts: The checkpoint's own account: architecture, layers, heads, window, stored type, sizes.
        quantized: 4-bit checkpoints that were made from it.
        problem: The damage of the checkpoint; empty if there is none.
    """

    row: ModelRow
    source: Source
    folder: Path | None
    facts: dict[str, Any] = field(default_factory=dict)
    quantized: tuple[Path, ...] = ()
    problem: str = ""


def fits(parameters: int, quantization: str) -> str:
    """Return where a model of this size can run now: `gpu`, `cpu` or `no`."""
    needed = _needed(parameters, quantization)
    if needed <= free_gpu_bytes():
        return "gpu"
    return "cpu" if needed <= free_bytes("cpu") else "no"


def _needed(parameters: int, quantization: str) -> int:
    weights = parameters * (_NF4_BYTES if quantization == "nf4" else 2)
    return int(weights + (_OVERHEAD if parameters >= SMALL else _OVERHEAD / 4))


def _file_needs(entry: CatalogEntry, file: ModelFile) -> int:
    """Return the memory of a GGUF file that is read in place, with 4,096 tokens of KV cache, in bytes."""
    return file.size + 4_096 * entry.kv_bytes + _PROCESS


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint's own account, with the sizes that it takes in memory."""
    config = checkpoint.config
    quantization = checkpoint.stored_quantization or ("nf4" if checkpoint.parameters >= SMALL else "none")
    return {
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads") or config.get("num_attention_heads"),
        "vocabulary": config.get("vocab_size"),
        "context": checkpoint.context,
        "sliding_window": checkpoint.sliding_window,
        "stored_as": checkpoint.stored_quantization or checkpoint.stored_dtype,
        "bytes": checkpoint.weight_bytes,
        "tokenizer": checkpoint.tokenizer,
        "chat_template": checkpoint.chat_template,
        "needs_bytes": weight_bytes(checkpoint, quantization, "bfloat16"),
        "kv_bytes_a_token": kv_bytes(config, "bfloat16"),
    }


class Registry:
    """The models of one cache, with the user's default and aliases.

        >>> registry = Registry(Path("cache"), Path("config"))
        >>> registry.default, registry.resolve("smollm2")
        ('auto', 'smollm2')

    Args:
        cache: The cache's root.
        config: Folder of the user's settings.
    """

    def __init__(self, cache: Path, config: Path) -> None:
        self.cache = cache
        self._user = UserModels(config / "models.json")

    @property
    def default(self) -> str:
        """Return the model that the user chose; `auto` if none was chosen."""
        return self._user.default

    @property
    def aliases(self) -> dict[str, str]:
        """Return the user's aliases: name -> the model that it stands for."""
        return self._user.aliases

    def resolve(self, name: str) -> str:
        """Return the model that an alias stands for; other names are returned unchanged."""
        return self.aliases.get(name, name)

    def rows(self, *, measure: bool = False) -> list[ModelRow]:
        """Return the catalog, other models that were pulled, and models that aliases stand for.

        Args:
            measure: Measure how fast this machine reads memory, which takes 100 ms, and estimate the decoding
                speed of each model that the CPU decodes.
        """
        rate = read_rate() if measure else None
        names = [entry.name for entry in CATALOG]
        for found in hub.pulled(self.cache):
            if found.revision != "main":
                names.append(f"{found.repo}@{found.revision}")
            elif find(found.repo) is None:
                names.append(found.repo)
        names += list(self.aliases.values())
        rows: dict[str, ModelRow] = {}
        for name in names:
            try:
                source = resolve(name)
            except LLMError:
                continue  # an alias of a folder that is gone
            rows.setdefault(source.name, self._row(source, rate))
        return list(rows.values())

    def show(self, name: str) -> ModelDetails:
        """Return everything about one model.

        Raises:
            UnknownModel: There is no such model.
        """
        source = resolve(self.resolve(name))
        folder, facts, problem = self.folder(source), {}, ""
        if folder is not None and folder.is_dir():
            try:
                facts = checkpoint_facts(Checkpoint.open(folder))
            except LLMError as error:
                problem = str(error)
        return ModelDetails(
            row=self._row(source),
            source=source,
            folder=folder,
            facts=facts,
            quantized=tuple(pretrained.kept(source, self.cache)),
            problem=problem,
        )

    def pull(
        self,
        name: str,
        *,
        revision: str | None = None,
        notify: Notify = silent,
        progress: Progress = no_progress,
        token: str | None = None,
    ) -> Path:
        """Fetch a model and return its checkpoint, or its GGUF file.

        Raises:
            BadRequest: It is a folder, which is here already.
            LLMError: What `llms.models.hub.pull` or `llms.models.fetch.fetch` raises.
        """
        source = resolve(self.resolve(name), revision)
        if source.kind == "embedded":
            return embedded_checkpoint(self.cache, notify=notify, progress=progress, entry=source.entry)
        if source.entry is not None and source.entry.file is not None:
            return fetch(source.entry.file, self.cache, notify=notify, progress=progress)
        if source.kind == "gguf":
            return converted(Path(source.location), self.cache, notify=notify)
        if source.kind == "folder":
            raise BadRequest(
                f"expected a model to fetch, found the folder {source.location!r}, which is here already"
            )
        try:
            return hub.pull(
                source.location, source.revision, self.cache, notify=notify, progress=progress, token=token
            ).folder
        except FetchFailed as error:
            if (found := self.folder(source)) is None:
                raise
            notify(f"{source.name} is here already; the Hub could not be asked for a newer one ({error})")
            return found

    def remove(self, name: str) -> int:
        """Delete a model, its 4-bit checkpoints and converted copies from the cache; return the freed bytes.

        What a killed download has left of it goes as well.

        A default that names it goes back to `auto`. The user's own folders and files stay as they are.

        Raises:
            UnknownModel: There is no such model, or nothing of it is in the cache.
            CacheNotWritable: The files cannot be deleted.
        """
        source = resolve(self.resolve(name))
        freed = hub.remove(source.location, self.cache, source.revision) if source.kind == "hub" else 0
        for folder in self._made_here(
            source
        ):  # found before the file is deleted, from which their names come
            freed += folder_bytes(folder)
            with disk_errors(folder):
                shutil.rmtree(folder)
        if source.entry is not None and source.entry.file is not None:
            freed += remove_file(source.entry.file, self.cache)
        if freed == 0:
            raise UnknownModel(
                f"expected {source.name!r} in the cache {str(self.cache)!r}, found nothing of it",
                hint="llms.models.ls()",
            )
        if self.default != AUTO and resolve(self.resolve(self.default)).name == source.name:
            self.set_default(AUTO)
        return freed

    def set_default(self, name: str) -> None:
        """Choose the model that is used if none is named; `auto` leaves the choice to each start.

        Raises:
            UnknownModel: There is no such model, or it is not on this machine.
            CacheNotWritable: The settings cannot be written.
        """
        if name != AUTO and name not in self.aliases:
            source = resolve(name)
            name = source.location if source.kind in ("folder", "gguf") else name
        if name != AUTO:
            source = resolve(self.resolve(name))
            if source.kind != "embedded" and self.folder(source) is None:
                raise UnknownModel(
                    f"expected a model that is on this machine, found {name!r}, which is not",
                    hint=f'llms.models.pull("{name}")',
                )
        self._user.save(default=name)

    def set_alias(self, name: str, target: str | None) -> None:
        """Let a name stand for a model; with None, delete the alias.

        Raises:
            BadRequest: The catalog has that name, or there is no such alias.
            UnknownModel: The target is not a model.
            CacheNotWritable: The settings cannot be written.
        """
        aliases = self.aliases
        if target is None:
            if name not in aliases:
                raise BadRequest(
                    f"expected one of your aliases ({', '.join(aliases) or 'none'}), found {name!r}"
                )
            del aliases[name]
        else:
            if name == AUTO or find(name) is not None or not name or set(name) & {"/", "@"}:
                raise BadRequest(
                    f"expected a new name without '/' and '@', found {name!r}, which means something already"
                )
            source = resolve(self.resolve(target))
            aliases[name] = source.location if source.kind in ("folder", "gguf") else source.name
        self._user.save(aliases=aliases)

    def loaded(self) -> list[RunningModel]:
        """Return the models that this machine's processes have loaded."""
        return running(self.cache)

    def folder(self, source: Source) -> Path | None:
        """Return a source's checkpoint if it is whole on this machine, else None."""
        return locate_source(source, self.cache)

    def _row(self, source: Source, rate: float | None = None) -> ModelRow:
        entry, folder = source.entry, self.folder(source)
        file = entry.file if entry else None
        parameters = entry.parameters if entry else None
        context = entry.context if entry else None
        if folder is not None and folder.is_dir() and entry is None:
            try:
                found = Checkpoint.open(folder)
                parameters, context = found.parameters, found.context
            except LLMError:
                pass  # `show` has the damage
        quantization = "nf4" if parameters and parameters >= SMALL else "none"
        memory = _needed(parameters, quantization) if parameters else None
        where = fits(parameters, quantization) if parameters else ""
        if entry is not None and file is not None:
            memory = _file_needs(entry, file)
            quantization, where = entry.quantization, "cpu" if memory <= free_bytes("cpu") else "no"
        aliases = [name for name, target in self.aliases.items() if target in (source.name, source.location)]
        return ModelRow(
            name=source.name,
            title=entry.title if entry else source.location,
            parameters=parameters,
            quantization=quantization,
            size=_bytes_on_disk(folder),
            context=context,
            fits=where,
            default=self.default in (source.name, source.location, *aliases),
            aliases=(*(entry.aliases if entry else ()), *aliases),
            licence=entry.licence if entry else "",
            download=entry.download_bytes if entry else None,
            memory=memory,
            tokens_per_second=(
                round(tokens_per_second(file.token_bytes or file.size, rate), 1) if rate and file else None
            ),
        )

    def _made_here(self, source: Source) -> list[Path]:
        made = pretrained.kept(source, self.cache)
        if source.kind == "embedded":
            made += [path for path in (self.cache / "models").glob(f"{source.name}-*") if path.is_dir()]
        elif (gguf := gguf_file(source, self.cache)) is not None:
            made.append(converted_path(gguf, self.cache))
        return [path for path in made if path.exists()]


def _bytes_on_disk(folder: Path | None) -> int:
    # A folder of the Hub's common cache holds links, so the sizes of their targets count.
    if folder is None:
        return 0
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def default_registry(folder: Path | None = None) -> Registry:
    """Return the registry of a cache folder (None: the platform's) with the platform's folder of settings."""
    config = platformdirs.user_config_dir(APPLICATION, appauthor=False)
    return Registry(folder or cache_dir(), Path(config))


def pull(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    notify: Notify = silent,
    progress: Progress = no_progress,
) -> Path:
    """Fetch a model into the cache, whole or not at all, and return its checkpoint folder or GGUF file.

        >>> import llms
        >>> llms.models.pull("mistral-7b")  # doctest: +SKIP

    Raises:
        LLMError: What `Registry.pull` raises.
    """
    registry = default_registry(cache_dir)
    return registry.pull(name, revision=revision, notify=notify, progress=progress)


def remove(name: str, *, cache_dir: Path | None = None) -> int:
    """Delete a model from the cache and return the freed bytes; see `Registry.remove`."""
    return default_registry(cache_dir).remove(name)


def show(name: str, *, cache_dir: Path | None = None) -> ModelDetails:
    """Return everything about one model; see `Registry.show`."""
    return default_registry(cache_dir).show(name)


def ls(*, cache_dir: Path | None = None) -> list[ModelRow]:
    """Return the catalog and the models of this machine.

    >>> import llms
    >>> [row.name for row in llms.models.ls()][:1]
    ['mistral-7b']
    """
    return default_registry(cache_dir).rows()


@dataclass(frozen=True, kw_only=True)
class RunningModel:
    """A model that a process has loaded.

    Attributes:
        pid: The process.
        started: Start of that process, in seconds since 1970, because pids are used again.
        name: The model.
        device: The device of the weights.
        quantization: The quantization of the weights.
        window: Longest sequence in tokens.
        memory: Expected peak in bytes; `rss` is the actual size of the process.
        since: Time of loading, in seconds since 1970.
    """

    pid: int
    started: float
    name: str
    device: str
    quantization: str
    window: int
    memory: int
    since: float

    @property
    def rss(self) -> int:
        """Return the process's resident memory in bytes; 0 if it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


def announce(cache: Path, *, name: str, device: str, quantization: str, window: int, memory: int) -> None:
    """Record that this process has loaded a model, until the process ends.

    A cache that cannot be written costs the entry, not the model.
    """
    process = psutil.Process()
    entry = RunningModel(
        pid=process.pid,
        started=process.create_time(),
        name=name,
        device=device,
        quantization=quantization,
        window=window,
        memory=memory,
        since=time.time(),
    )
    path = cache / "running" / f"{process.pid}-{name.replace('/', '--')}-{quantization}.json"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(entry)), encoding="utf-8")
        atexit.register(_remove_entry, path, os.getpid())


def running(cache: Path) -> list[RunningModel]:
    """Return the models that living processes have loaded, oldest first; delete the entries of dead ones."""
    found = []
    for path in (cache / "running").glob("*.json"):
        try:
            entry = RunningModel(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if _alive(entry):
            found.append(entry)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda entry: entry.since)


def _alive(entry: RunningModel) -> bool:
    try:
        return abs(psutil.Process(entry.pid).create_time() - entry.started) < 1
    except psutil.Error:
        return False


def _remove_entry(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        with suppress(OSError):
            path.unlink()
