"""The models of this machine, for `agent models`: what there is, what it takes, which one is the default.

Knows the catalog, the cache and the user's wishes (default and aliases). Refuses to load
anything, and to import torch: listing costs milliseconds. Names go through `resolve` first, so aliases work
wherever a model is named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llms.catalog import AUTO, CATALOG, Source, find, resolve
from llms.checkpoint import facts as reading
from llms.checkpoint import quantized
from llms.checkpoint.folder import Notify, disk_errors, folder_bytes, silent
from llms.choose import SMALL
from llms.errors import BadRequest, FetchFailed, LLMError, UnknownModel
from llms.model_rows import Details, Row, fits, summary
from llms.running import Running, running
from llms.sources import hub, hub_cache
from llms.sources.fetch import Progress, embedded_checkpoint, no_progress
from llms.sources.gguf_cache import converted, converted_path
from llms.sources.sources import here
from llms.wishes import Wishes


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
            LLMError: What `llms.sources.hub.pull` or `llms.sources.fetch.embedded_checkpoint` raises.
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
