"""Remove a folder that untrusted code has filled, however deep it is nested and whatever its permissions.

`shutil.rmtree` recurses (RecursionError at about 1,000 levels before Python 3.13) and stops at unreadable
folders.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
from collections.abc import Iterator


def remove_tree(path: str) -> None:
    """Remove `path` and everything below it without following links, ignoring what cannot be removed.

    Folders are moved up to the top before they are emptied, so that no path grows long and nothing recurses.
    """
    with contextlib.suppress(OSError):
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stem = secrets.token_hex(8)
        names = (f".{stem}{number}" for number in itertools.count())
        try:
            while waiting := os.listdir(top):
                for name in waiting:
                    _remove(name, top, names)
        finally:
            os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove(name: str, top: int, names: Iterator[str]) -> None:
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for entry in os.listdir(inner):
            if _is_folder(entry, inner):
                os.chmod(entry, 0o700, dir_fd=inner)
                os.rename(entry, next(names), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(entry, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
