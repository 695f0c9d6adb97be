"""Which files an ingest is about: folders walked, .gitignore honoured, hidden and outward links left out.

Knows paths and file attributes. Refuses to open a document. A file that is named itself is taken even where
it is hidden or ignored.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pathspec

from chains.retrieval.document import FileFacts
from chains.retrieval.errors import DocumentTooLarge, SourceError, SourceNotFound, SourceUnreadable

MAX_FILE_BYTES = 32 * 1024 * 1024
# A file changed this recently may change again within one tick of the clock: its times are not trusted.
_RACY_S = 2.0


@dataclass(kw_only=True, slots=True)
class Survey:
    """What was found: files by path, files that cannot be taken, folders whose content is known whole.

    `named` holds files given themselves; `unreadable` prefixes about which nothing is known, so that nothing
    under them counts as deleted.
    """

    files: dict[str, FileFacts] = field(default_factory=dict)
    failed: list[tuple[str, SourceError]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)

    def covers(self, path: str) -> bool:
        """Whether the survey would have seen `path` were it still there to ingest."""
        if any(_within(path, prefix) for prefix in self.unreadable):
            return False
        return any(_within(path, folder) for folder in self.folders)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def survey(paths: Iterable[str | os.PathLike[str]], max_file_bytes: int = MAX_FILE_BYTES) -> Survey:
    """Looks at every path; folders are walked.

    Raises:
        SourceNotFound: a path names nothing.
        SourceUnreadable: a folder that was named cannot be listed.
    """
    found = Survey()
    for given in paths:
        path = os.path.realpath(given)
        if not os.path.lexists(path):
            raise SourceNotFound(
                f"expected a file or folder, found nothing at {os.fspath(given)!r}; check the path"
            )
        if os.path.isdir(path):
            if not os.access(path, os.R_OK | os.X_OK):
                raise SourceUnreadable(
                    f"expected to list the folder {path!r}, found no permission; check its owner and mode"
                )
            found.folders.append(path)
            ignore = _Ignore.above(path)
            _walk(path, path, ignore, found, max_file_bytes)
        else:
            found.named.add(path)
            _take(path, found, max_file_bytes)
    return found


@dataclass(frozen=True, slots=True)
class _Ignore:
    """The .gitignore files from the repository's root down to a folder."""

    specs: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = ()

    @classmethod
    def above(cls, folder: str) -> _Ignore:
        parents: list[str] = []
        for parent in Path(folder).parents:
            parents.append(str(parent))
            if (parent / ".git").exists():
                break
        else:
            return cls()
        if os.path.exists(os.path.join(folder, ".git")):
            return cls()
        found = cls()
        for parent_path in reversed(parents):
            found = found.entering(parent_path)
        return found

    def entering(self, folder: str) -> _Ignore:
        try:
            with open(os.path.join(folder, ".gitignore"), encoding="utf-8", errors="replace") as handle:
                spec = pathspec.GitIgnoreSpec.from_lines(handle)
        except (OSError, ValueError):
            return self
        return _Ignore((*self.specs, (folder, spec)))

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Whether git would ignore it: the deepest file that says something decides."""
        for folder, spec in reversed(self.specs):
            name = os.path.relpath(path, folder) + ("/" if is_dir else "")
            verdict = spec.check_file(name).include
            if verdict is not None:
                return verdict
        return False


def _walk(root: str, folder: str, ignore: _Ignore, found: Survey, max_file_bytes: int) -> None:
    pending: list[tuple[str, _Ignore]] = [(folder, ignore)]
    while pending:
        here, rules = pending.pop()
        rules = rules.entering(here)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(here)
            found.failed.append(
                (here, SourceUnreadable(f"expected to list {here!r}, found {error.strerror!r}"))
            )
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_dir = entry.is_dir(follow_symlinks=False)
            if rules.ignores(entry.path, is_dir=is_dir):
                continue
            if is_dir:
                pending.append((entry.path, rules))
            elif not entry.is_symlink() or _inside(entry.path, root):
                _take(entry.path, found, max_file_bytes)


def _inside(link: str, root: str) -> bool:
    target = os.path.realpath(link)
    return _within(target, root) and os.path.isfile(target)


def _take(path: str, found: Survey, max_file_bytes: int) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        found.failed.append(
            (shown, SourceUnreadable(f"expected a file name in UTF-8, found {shown!r}; rename it"))
        )
        return
    try:
        status = os.stat(path)
    except OSError as error:
        found.unreadable.append(path)
        found.failed.append((path, SourceUnreadable(f"expected to read {path!r}, found {error.strerror!r}")))
        return
    if not modes.S_ISREG(status.st_mode):
        if path in found.named:
            found.failed.append(
                (path, SourceUnreadable(f"expected a regular file, found {path!r}, which is none"))
            )
        return
    if status.st_size > max_file_bytes:
        message = (
            f"expected at most {max_file_bytes} bytes, found {status.st_size} in {path!r}; "
            "raise the limit with max_file_bytes (`agent ingest --max-bytes`)"
        )
        found.failed.append((path, DocumentTooLarge(message)))
        found.unreadable.append(path)
        return
    found.files[path] = FileFacts(
        path=path, size=status.st_size, modified=status.st_mtime, stat=_fingerprint(status)
    )


def _fingerprint(status: os.stat_result) -> str:
    """What must be equal for a file to count as unchanged unread; empty where it was changed just now."""
    if max(status.st_mtime, status.st_ctime) > time.time() - _RACY_S:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def inside_any(path: str, prefixes: Sequence[str]) -> bool:
    """Whether `path` is one of `prefixes` or lies under one."""
    return any(_within(path, prefix) for prefix in prefixes)


def folders_of(paths: Iterable[str]) -> Iterator[str]:
    """The folder of each path that is a file, each path that is a folder."""
    for path in paths:
        yield path if os.path.isdir(path) else os.path.dirname(path)
