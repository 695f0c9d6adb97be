"""Folders of this program: cache (checkpoints), data (store, threads, logs) and config.

They follow the platform (platformdirs, application name `mistral-agent`). A home folder puts all of them
under one place, and a cache folder overrides the cache alone. The environment is not read here;
`agent.settings` passes the values in.

    >>> find_folders(Path("/home/me/agent")).store
    PosixPath('/home/me/agent/store')
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.errors import FolderError

APPLICATION = "mistral-agent"
PLATFORM = "platform"
"""As a cache folder, this means the platform's own even if a home folder is set, so that a demo need not
fetch its model again."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The three folders; they need not exist yet."""

    cache: Path
    data: Path
    config: Path

    @property
    def store(self) -> Path:
        """Folder of the document store."""
        return self.data / "store"

    @property
    def threads(self) -> Path:
        """SQLite file of the conversations."""
        return self.data / "threads.sqlite"

    @property
    def logs(self) -> Path:
        """SQLite file of questions and answers."""
        return self.data / "logs.sqlite"

    @property
    def history(self) -> Path:
        """Text file of the lines typed into `chat`."""
        return self.data / "chat_history"

    @property
    def notes(self) -> Path:
        """Text file of what the user asked to be remembered."""
        return self.data / "notes.txt"

    @property
    def templates(self) -> Path:
        """Folder of the user's prompt templates."""
        return self.config / "templates"

    @property
    def config_file(self) -> Path:
        """The settings file."""
        return self.config / "config.toml"


def find_folders(home: Path | None = None, cache_dir: Path | None = None) -> Folders:
    """Return the folders of this user, or those under `home`.

    `cache_dir`, a path or `platform`, moves the cache alone.
    """
    from platformdirs import PlatformDirs

    dirs = PlatformDirs(APPLICATION, appauthor=False)
    if home is None:
        cache, data, config = dirs.user_cache_path, dirs.user_data_path, dirs.user_config_path
    else:
        root = home.expanduser().absolute()
        cache, data, config = root / "cache", root, root
    if cache_dir is not None:
        cache = dirs.user_cache_path if str(cache_dir) == PLATFORM else cache_dir.expanduser().absolute()
    return Folders(cache=cache, data=data, config=config)


def private_folder(path: Path) -> Path:
    """Make `path` (mode 0700) if it is missing, and check that it is writable; raises FolderError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable by this user")
    except OSError as error:
        raise FolderError(
            f"expected a folder that can be written, found {str(path)!r} ({error.strerror or error}); "
            "free it, or name another with the environment variable AGENT_HOME"
        ) from error
    return path


def private_file(path: Path) -> Path:
    """Make an empty file (mode 0600) in a private folder if it is missing; raises FolderError."""
    private_folder(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise FolderError(
            f"expected a file that can be written, found {str(path)!r} ({error.strerror or error}); "
            "free it, or name another folder with the environment variable AGENT_HOME"
        ) from error
    return path
