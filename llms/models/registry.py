"""Which models are loaded on this machine, by which process: a small file per model, for `agent models ps`.

Knows processes and files. Refuses to know models. A file whose process is gone is ignored, and removed by the
next look; an unwritable cache costs the listing, never the model.

What `agent models` says about one model: its line in the list, its details, and where it would fit.

Knows words and sizes. Refuses to look for models (`llms.models.registry` does), and to import torch.

The models of this machine, for `agent models`: what there is, what it takes, which one is the default.

Knows the catalog, the cache and the user's wishes (default and aliases). Refuses to load
anything, and to import torch: listing costs milliseconds. Names go through `resolve` first, so aliases work
wherever a model is named.
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

import psutil

from llms.errors import BadRequest, FetchFailed, LLMError, UnknownModel
from llms.models import checkpoint as reading
from llms.models import hub
from llms.models import hub as hub_cache
from llms.models import weights as quantized
from llms.models.catalog import AUTO, CATALOG, SMALL, Source, Wishes, find, resolve
from llms.models.checkpoint import Facts, Notify, disk_errors, folder_bytes, silent
from llms.models.embedded import Progress, embedded_checkpoint, no_progress
from llms.models.gguf import converted, converted_path
from llms.models.gpu import free_gpu_bytes
from llms.models.memory import free_bytes, token_bytes, weight_bytes
from llms.models.sources import here


@dataclass(frozen=True, kw_only=True)
class Running:
    """A model that a process has loaded.

    Attributes:
        pid: The process.
        started: When that process started, in seconds since 1970: pids are used again.
        name: The model.
        device: Where it is.
        quantization: How its weights are stored.
        window: Longest sequence in tokens.
        memory: Expected peak in bytes; what the process really has is `rss`.
        since: When it was loaded, in seconds since 1970.
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
        """Return the process's resident memory in bytes; 0 where it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


def announce(cache: Path, *, name: str, device: str, quantization: str, window: int, memory: int) -> None:
    """Write down that this process has loaded a model; the entry goes when the process ends."""
    process = psutil.Process()
    entry = Running(
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
        atexit.register(_forget, path, os.getpid())


def running(cache: Path) -> list[Running]:
    """List the models that living processes have loaded, oldest first."""
    found = []
    for path in (cache / "running").glob("*.json"):
        try:
            entry = Running(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if _alive(entry):
            found.append(entry)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda entry: entry.since)


def _alive(entry: Running) -> bool:
    try:
        return abs(psutil.Process(entry.pid).create_time() - entry.started) < 1
    except psutil.Error:
        return False


def _forget(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        with suppress(OSError):
            path.unlink()


_OVERHEAD = 1_000_000_000
"""KV cache for 4,096 tokens of a 7B model and workspace, in bytes: what "fits" allows beside the weights."""
_NF4_BYTES = 0.57
"""Bytes a weight in NF4 over a whole Mistral-7B, embeddings in bf16: 4.14 GB / 7.25e9."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `agent models list`.

    Attributes:
        name: What `--model` takes.
        title: What people call it.
        parameters: Number of weights; None where it is not known before it is pulled.
        quantization: What `auto` loads it in.
        size: Bytes on this disk; 0 where it is not here.
        context: Longest sequence in tokens; None where it is not known.
        fits: `gpu`, `cpu` or `no`: where it can run now; empty where that is not known.
        default: Whether it is the default.
        aliases: Other names for it.
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


@dataclass(frozen=True, kw_only=True)
class Details:
    """What `agent models show` tells about one model.

    Attributes:
        row: Its line of the list.
        source: Where it comes from.
        folder: Its checkpoint; None where it is not here.
        facts: What the checkpoint says of itself: architecture, layers, heads, window, stored type, files.
        quantized: 4-bit checkpoints made from it.
        problem: What is wrong with the checkpoint; empty where nothing is.
    """

    row: Row
    source: Source
    folder: Path | None
    facts: dict[str, Any] = field(default_factory=dict)
    quantized: tuple[Path, ...] = ()
    problem: str = ""


def fits(parameters: int, quantization: str) -> str:
    """Tell where a model of this size can run now: `gpu`, `cpu` or `no`."""
    needed = parameters * (_NF4_BYTES if quantization == "nf4" else 2)
    needed += _OVERHEAD if parameters >= SMALL else _OVERHEAD / 4
    if needed <= free_gpu_bytes():
        return "gpu"
    return "cpu" if needed <= free_bytes("cpu") else "no"


def summary(facts: Facts) -> dict[str, Any]:
    """Return what a checkpoint says of itself, in the words that `agent models show` prints."""
    config = facts.config
    quantization = facts.stored_quantization or ("nf4" if facts.parameters >= SMALL else "none")
    return {
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "heads": config.get("num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads") or config.get("num_attention_heads"),
        "vocabulary": config.get("vocab_size"),
        "context": facts.context,
        "sliding_window": facts.sliding_window,
        "stored_as": facts.stored_quantization or facts.stored_dtype,
        "bytes": facts.weight_bytes,
        "tokenizer": facts.tokenizer,
        "chat_template": facts.chat_template,
        "needs_bytes": weight_bytes(facts, quantization, "bfloat16"),
        "kv_bytes_a_token": token_bytes(facts, "bfloat16"),
    }


class Registry:
    """The models of one cache, with the user's default and aliases.

    Args:
        cache: The cache's root.
        config: Folder of the user's settings.
    """

    def __init__(self, cache: Path, config: Path) -> None:
        self.cache = cache
        self._wishes = Wishes(config / "models.json")

    @property
    def default(self) -> str:
        """Return the model that the user chose, `auto` where none was."""
        return self._wishes.default

    @property
    def aliases(self) -> dict[str, str]:
        """Return the user's aliases: name -> what it stands for."""
        return self._wishes.aliases

    def resolve(self, name: str) -> str:
        """Turn an alias into what it stands for; other names come back as they are."""
        return self.aliases.get(name, name)

    def rows(self) -> list[Row]:
        """List the catalog, what was pulled besides, and what aliases point to."""
        names = [entry.name for entry in CATALOG]
        for found in hub_cache.pulled(self.cache):
            if found.revision != "main":
                names.append(f"{found.repo}@{found.revision}")
            elif find(found.repo) is None:
                names.append(found.repo)
        names += list(self.aliases.values())
        rows: dict[str, Row] = {}
        for name in names:
            try:
                source = resolve(name)
            except LLMError:
                continue  # an alias of a folder that is gone
            rows.setdefault(source.name, self._row(source))
        return list(rows.values())

    def show(self, name: str) -> Details:
        """Describe one model.

        Raises:
            UnknownModel: No such model.
        """
        source = resolve(self.resolve(name))
        folder, facts, problem = self.folder(source), {}, ""
        if folder is not None:
            try:
                facts = summary(reading.read(folder))
            except LLMError as error:
                problem = str(error)
        return Details(
            row=self._row(source),
            source=source,
            folder=folder,
            facts=facts,
            quantized=tuple(quantized.kept(source, self.cache)),
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
        """Bring a model to this machine; return its checkpoint.

        Raises:
            BadRequest: It is a folder, which is here already.
            LLMError: What `llms.models.hub.pull` or `llms.models.embedded.embedded_checkpoint` raises.
        """
        source = resolve(self.resolve(name), revision)
        if source.kind == "embedded":
            return embedded_checkpoint(self.cache, notify=notify, progress=progress, entry=source.entry)
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
        """Delete a model from the cache, its 4-bit checkpoints and converted copies included.

        A default that names it goes back to `auto`. The user's own folders and files are never touched.

        Returns:
            The bytes freed.

        Raises:
            UnknownModel: No such model, or nothing of it is in the cache.
            CacheNotWritable: It cannot be deleted.
        """
        source = resolve(self.resolve(name))
        freed = hub_cache.remove(source.location, self.cache, source.revision) if source.kind == "hub" else 0
        for folder in self._made_here(source):
            freed += folder_bytes(folder)
            with disk_errors(folder):
                shutil.rmtree(folder)
        if freed == 0:
            raise UnknownModel(
                f"expected {source.name!r} in the cache {str(self.cache)!r}, found nothing of it; `agent "
                "models list` shows what is there"
            )
        if self.default != AUTO and resolve(self.resolve(self.default)).name == source.name:
            self.set_default(AUTO)
        return freed

    def set_default(self, name: str) -> None:
        """Choose the model that is used where none is named; `auto` leaves the choice to each start.

        Raises:
            UnknownModel: No such model, or it is not on this machine.
            CacheNotWritable: The settings cannot be written.
        """
        if name != AUTO and name not in self.aliases:
            source = resolve(name)
            name = source.location if source.kind in ("folder", "gguf") else name
        if name != AUTO:
            source = resolve(self.resolve(name))
            if source.kind != "embedded" and self.folder(source) is None:
                raise UnknownModel(
                    f"expected a model that is on this machine, found {name!r}, which is not; run "
                    f"`agent models pull {name}` first"
                )
        self._wishes.keep(default=name)

    def set_alias(self, name: str, target: str | None) -> None:
        """Let a name stand for a model, or, with None, for nothing any more.

        Raises:
            BadRequest: The catalog has that name, or nothing is called so.
            UnknownModel: The target is no model.
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
        self._wishes.keep(aliases=aliases)

    def loaded(self) -> list[Running]:
        """List what this machine's processes have loaded, for `agent models ps`."""
        return running(self.cache)

    def folder(self, source: Source) -> Path | None:
        """Return a source's checkpoint where it is here and whole."""
        return here(source, self.cache)

    def _row(self, source: Source) -> Row:
        entry, folder = source.entry, self.folder(source)
        parameters = entry.parameters if entry else None
        context = entry.context if entry else None
        if folder is not None and entry is None:
            try:
                facts = reading.read(folder)
                parameters, context = facts.parameters, facts.context
            except LLMError:
                pass  # `show` says what is wrong with it
        quantization = "nf4" if parameters and parameters >= SMALL else "none"
        aliases = [name for name, target in self.aliases.items() if target in (source.name, source.location)]
        return Row(
            name=source.name,
            title=entry.title if entry else source.location,
            parameters=parameters,
            quantization=quantization,
            size=_bytes_on_disk(folder),
            context=context,
            fits=fits(parameters, quantization) if parameters else "",
            default=self.default in (source.name, source.location, *aliases),
            aliases=(*(entry.aliases if entry else ()), *aliases),
        )

    def _made_here(self, source: Source) -> list[Path]:
        made = quantized.kept(source, self.cache)
        if source.kind == "embedded":
            made += [path for path in (self.cache / "models").glob(f"{source.name}-*") if path.is_dir()]
        if source.kind == "gguf":
            made.append(converted_path(Path(source.location), self.cache))
        return [path for path in made if path.exists()]


def _bytes_on_disk(folder: Path | None) -> int:
    # A folder of the Hub's common cache holds links to the files themselves.
    if folder is None:
        return 0
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
