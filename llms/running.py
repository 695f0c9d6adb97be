"""Which models are loaded on this machine, by which process: a small file per model, for `agent models ps`.

Knows processes and files. Refuses to know models. A file whose process is gone is ignored, and removed by the
next look; an unwritable cache costs the listing, never the model.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


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
