"""Finds the files to ingest under the paths that were named.

Folders are walked without hidden files, files that a .gitignore excludes, and links that lead out of the
folder. A file that is named itself is taken even if it is hidden or ignored. No document is opened.
"""

from __future__ import annotations

import os
import stat as modes
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pathspec

from chains.retrieval.document import SourceFile
from chains.retrieval.errors import DocumentTooLarge, SourceError, SourceNotFound, SourceUnreadable

MAX_FILE_BYTES = 32 * 1024 * 1024
_MAX_RULES_BYTES = 1024 * 1024
# A file that changed this recently may change again within one tick of the clock: its times are not trusted.
_RACY_S = 2.0


@dataclass(kw_only=True, slots=True)
class Survey:
    """The files that were found.

    Args:
        files: Files to ingest, by path.
        failed: Files that cannot be ingested, and why.
        folders: Folders that were walked completely.
        named: Files that were named themselves.
        passed_over: What lies in the folders and is no file of theirs, such as pipes, and why it is not read.
        unreadable: Path prefixes that could not be listed; nothing under them counts as deleted.
    """

    files: dict[str, SourceFile] = field(default_factory=dict)
    failed: list[tuple[str, SourceError]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    passed_over: list[tuple[str, SourceError]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def covers(self, path: str) -> bool:
        """Return whether the survey would have found `path` if it still existed."""
        if any(_is_under(path, prefix) for prefix in self.unreadable):
            return False
        return any(_is_under(path, folder) for folder in self.folders)


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def survey(paths: Iterable[str | os.PathLike[str]], max_file_bytes: int = MAX_FILE_BYTES) -> Survey:
    """Return the files at `paths` and in the folders among them.

    Raises:
        SourceNotFound: A path does not exist.
        SourceUnreadable: A folder that was named cannot be listed.
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
            ignore = _GitIgnore.above(path)
            _walk(path, path, ignore, found, max_file_bytes)
        else:
            found.named.add(path)
            _add_file(path, found, max_file_bytes)
    return found


@dataclass(frozen=True, slots=True)
class _GitIgnore:
    """The .gitignore files from the repository's root down to a folder."""

    specs: tuple[tuple[str, pathspec.GitIgnoreSpec], ...] = ()

    @classmethod
    def above(cls, folder: str) -> _GitIgnore:
        """Return the rules that apply to `folder` itself, from its repository's root down."""
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

    def entering(self, folder: str) -> _GitIgnore:
        """Return these rules together with those of the .gitignore in `folder`."""
        try:
            rules = read_file(os.path.join(folder, ".gitignore"), _MAX_RULES_BYTES)
        except SourceError:
            return self
        try:
            # RE2 matches in linear time; with Python's `re` one hostile pattern takes minutes a file.
            spec = pathspec.GitIgnoreSpec.from_lines(
                rules.decode("utf-8", "replace").splitlines(), backend="re2"
            )
        except Exception:  # rules that cannot be compiled, for which re2 has an error class of its own
            return self
        return _GitIgnore((*self.specs, (folder, spec)))

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Return whether git would ignore it; the deepest .gitignore with a matching rule decides."""
        for folder, spec in reversed(self.specs):
            name = os.path.relpath(path, folder) + ("/" if is_dir else "")
            verdict = spec.check_file(name).include
            if verdict is not None:
                return verdict
        return False


def _walk(root: str, folder: str, ignore: _GitIgnore, found: Survey, max_file_bytes: int) -> None:
    pending: list[tuple[str, _GitIgnore]] = [(folder, ignore)]
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
            elif entry.is_symlink() and (refusal := _link_refusal(entry.path, root)) is not None:
                found.passed_over.append((entry.path, refusal))
            else:
                _add_file(entry.path, found, max_file_bytes)


def _link_refusal(link: str, root: str) -> SourceError | None:
    """Return why a link in a folder is not followed, or None if it leads to a file of the folder."""
    try:
        target = os.path.realpath(link)
    except OSError:  # Some links cannot be read: /proc/PID/exe of a kernel thread, for one.
        return SourceUnreadable(f"expected a file, found {link!r}, a link that cannot be read")
    if not os.path.lexists(target):
        return SourceUnreadable(f"expected a file, found {link!r}, a link to nothing; mend or remove it")
    if not _is_under(target, root):
        return SourceUnreadable(
            f"expected a file below {root!r}, found {link!r}, a link that leads out of it; name its target"
        )
    if not os.path.isfile(target):
        return SourceUnreadable(f"expected a file, found {link!r}, a link to something else below {root!r}")
    return None


def _add_file(path: str, found: Survey, max_file_bytes: int) -> None:
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
        refusal = SourceUnreadable(f"expected a file, found {kind_of_node(status.st_mode)} at {path!r}")
        (found.failed if path in found.named else found.passed_over).append((path, refusal))
        return
    if status.st_size > max_file_bytes:
        message = (
            f"expected at most {max_file_bytes} bytes, found {status.st_size} in {path!r}; "
            "raise the limit with max_file_bytes="
        )
        found.failed.append((path, DocumentTooLarge(message)))
        found.unreadable.append(path)
        return
    found.files[path] = SourceFile(
        path=path, size=status.st_size, modified=status.st_mtime, stat=_fingerprint(status)
    )


def _fingerprint(status: os.stat_result) -> str:
    """Return what must be equal for a file to count as unchanged without being read.

    The result is empty if the file changed just now.
    """
    if max(status.st_mtime, status.st_ctime) > time.time() - _RACY_S:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def read_file(path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the file's bytes; pipes, devices and sockets are not waited for.

    Raises:
        SourceNotFound: There is no such file.
        SourceUnreadable: It cannot be opened or read, or is a folder, a pipe, a device or a socket.
        DocumentTooLarge: It has more than `max_bytes` bytes.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that has no writer would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not modes.S_ISREG(mode):
                raise SourceUnreadable(
                    f"expected a file, found {kind_of_node(mode)} at {path!r}; name a file"
                )
            with open(descriptor, "rb", closefd=False) as handle:
                data = handle.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise SourceNotFound(f"expected a file, found nothing at {path!r}; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceUnreadable(
            f"expected to read {path!r}, found {reason!r}; check its owner and mode"
        ) from error
    if len(data) > max_bytes:
        raise DocumentTooLarge(
            f"expected at most {max_bytes} bytes, found more in {path!r}; raise the limit with "
            "max_file_bytes="
        )
    return data


def kind_of_node(mode: int) -> str:
    """Return what a path leads to in words, from its `st_mode`.

    >>> kind_of_node(modes.S_IFIFO)
    'a pipe'
    """
    kinds = (
        (modes.S_ISREG, "a file"),
        (modes.S_ISDIR, "a folder"),
        (modes.S_ISFIFO, "a pipe"),
        (modes.S_ISSOCK, "a socket"),
        (modes.S_ISCHR, "a device"),
        (modes.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")


def folders_of(paths: Iterable[str]) -> Iterator[str]:
    """Yield each path that is a folder, and the folder of each path that is a file."""
    for path in paths:
        yield path if os.path.isdir(path) else os.path.dirname(path)
