"""A checkpoint folder in the cache: written whole or not at all, one writer at a time, damage noticed.

Knows files, sizes, hashes, locks and disk space. Refuses to know models, tensors and the network.

A folder is built under another name beside its place (`staging`), gets a manifest with the size and SHA-256
of every file, is flushed to the disk and renamed into place. So a folder without its manifest was never
finished, and a kill at any moment leaves a `*.partial` folder that the next writer, which holds the lock,
removes. Sizes are checked at every start (cheap); hashes when a load failed or somebody asks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llms.errors import CacheNotWritable, DamagedCheckpoint, NoSpace

MANIFEST = "manifest.json"
PARTIAL = ".partial"
Notify = Callable[[str], None]
"""Takes one line for the user; the caller decides where it goes (the command line: stderr)."""


def silent(_line: str) -> None:
    """Drop a notice."""


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Return the bytes that the files under a folder hold, links not followed; 0 where there is none."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size_text(count: int) -> str:
    """Return a number of bytes as people read it: `14.5 GB`, `92.9 MB`, `462 kB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


def manifest(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest; None where there is none or it is not readable JSON."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def damage(folder: Path, *, hashes: bool = False) -> str | None:
    """Tell what is wrong with a checkpoint that has a manifest, in words; None when nothing is.

    Args:
        folder: The checkpoint.
        hashes: Compare the content of every file as well as its size (reads everything).
    """
    found = manifest(folder)
    if found is None:
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in found["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{name} has {size:,} bytes, expected {expected['size']:,}"
        if hashes and sha256_file(path) != expected["sha256"]:
            return f"{name} does not have the SHA-256 {expected['sha256'][:12]}… that was recorded for it"
    return None


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest, content included.

    Raises:
        DamagedCheckpoint: A file is missing, has another size, or other bytes.
    """
    if problem := damage(folder, hashes=True):
        raise DamagedCheckpoint(
            f"the checkpoint {str(folder)!r} is damaged: {problem}; delete the folder, the next start makes "
            "it anew"
        )


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write under a folder into this package's errors.

    Raises:
        NoSpace: The disk, a quota or a file-size limit is full.
        CacheNotWritable: No permission, a read-only disk, or a file stands where a folder must be.
    """
    try:
        yield
    except Exception as error:
        code = _errno(error)
        if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise NoSpace(_no_space(where)) from error
        if code in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            raise CacheNotWritable(
                f"expected a cache folder that can be written, found {str(where)!r} refused ({error}); make "
                "it writable, or name another one with AGENT_CACHE_DIR or cache_dir="
            ) from error
        raise


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors writes in Rust and reports the operating system's number in the text alone.
    text = str(error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if f"(os error {code})" in text or f"Errno {code}]" in text:
            return code
    return None


def _no_space(where: Path) -> str:
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    return (
        f"the disk is full: writing under {str(where)!r} failed with {free / 1e6:,.0f} MB free; what was "
        "half written is removed. Free some space, or name another folder with AGENT_CACHE_DIR or cache_dir="
    )


def require_space(where: Path, needed: int, what: str) -> None:
    """Refuse before starting what the disk has no room for.

    Args:
        where: The folder to write into; it need not exist yet.
        needed: Bytes to be written.
        what: What would be written, for the message.

    Raises:
        NoSpace: Less than `needed` is free.
    """
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NoSpace(
            f"{what} needs {needed / 1e9:.2f} GB on the disk of {str(where)!r}, found {free / 1e9:.2f} GB "
            "free; free some space, or name another folder with AGENT_CACHE_DIR or cache_dir="
        )


@contextmanager
def locked(target: Path, notify: Notify = silent, timeout_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock of a cache folder, across processes and threads; a dead holder's is freed by the kernel.

    Args:
        target: The folder that will be written; the lock lies beside it.
        notify: Told once when another process holds the lock.
        timeout_s: How long to wait for the other one, in seconds.

    Raises:
        CacheNotWritable: The cache cannot be written, or the other process did not finish in time.
    """
    path = target.with_name(f"{target.name}.lock")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"another process is preparing {target.name}; waiting for it")
            try:
                lock.acquire(timeout=timeout_s)
            except Timeout as error:
                raise CacheNotWritable(
                    f"expected the process that holds {str(path)!r} to finish within {timeout_s:g} s, it did "
                    "not; end it, then start again"
                ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder to build a checkpoint in, and put it in its place when the block ends without an error.

    The caller holds the target's lock. What stood at the target is replaced only by a finished folder.

    Args:
        target: Where the checkpoint belongs.
        facts: What its manifest says beside the files: source, settings, versions.

    Raises:
        NoSpace: The disk is full; nothing half-written stays.
        CacheNotWritable: The folder cannot be written.
    """
    part = target.with_name(target.name + PARTIAL)
    with disk_errors(target.parent):
        _remove(part)
        part.mkdir(parents=True)
        try:
            yield part
            _write_manifest(part, facts)
            _flush(part)
            old = target.with_name(target.name + ".old")
            _remove(old)
            if target.exists():
                target.rename(old)
            part.rename(target)
            _flush_folder(target.parent)
            _remove(old)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600, and a cache may be shared by several users
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
