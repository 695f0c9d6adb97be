"""One file of a Hub repository, fetched so that an interrupted download goes on where it stopped.

Knows the Hub client's HTTP functions and its errors, and turns these into this package's. Refuses to know
which files a model needs. `hf_hub_download` of huggingface_hub 1.x starts a file again after a kill (it
writes to a name of its own each time); a shard of Mistral-7B has 5 GB, so the partial file here keeps its
name, and the caller's lock keeps others away from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llms.checkpoint.folder import sha256_file
from llms.errors import DamagedCheckpoint, FetchFailed, GatedModel, HashMismatch, LLMError, UnknownModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A file of a repository, as the Hub announces it.

    Attributes:
        repo: Hub id.
        name: The file's name in the repository.
        commit: The commit to take it from.
        size: Its size in bytes.
        sha256: Its hash, where the Hub announces one (large files); None elsewhere.
    """

    repo: str
    name: str
    commit: str
    size: int
    sha256: str | None

    @property
    def part(self) -> str:
        """Name of the file that keeps its beginning."""
        return f"{self.sha256 or self.commit}-{self.name.replace('/', '--')}.incomplete"


def fetch_file(wanted: Wanted, *, folder: Path, parts: Path, token: str | None) -> Path:
    """Bring one file into a folder; nothing stands under its name until it is whole.

    Args:
        wanted: The file.
        folder: Where it belongs.
        parts: Where its beginning is kept meanwhile.
        token: Access token; None for the one that the Hub's client has stored.

    Raises:
        HashMismatch: It arrived with another size or hash; what arrived is deleted.
        Exception: The Hub client's own errors (`hub_errors` translates them).
    """
    target = folder / wanted.name
    if target.is_file() and target.stat().st_size == wanted.size:
        return target
    part = parts / wanted.part
    part.touch()
    if part.stat().st_size > wanted.size:
        part.write_bytes(b"")
    try:
        _append(wanted, part, token)
    finally:
        if part.stat().st_size == 0 < wanted.size:
            part.unlink()  # refused before the first byte: nothing to go on from
    _check(wanted, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    return target


def _append(wanted: Wanted, part: Path, token: str | None) -> None:
    """Append what is missing of a file, and see it onto the disk."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not re-exported

    with part.open("r+b") as file, _no_bar():
        begun = file.seek(0, os.SEEK_END)
        http_get(
            hf_hub_url(wanted.repo, wanted.name, revision=wanted.commit),
            file,
            resume_size=begun,
            headers=build_hf_headers(token=token),
            expected_size=wanted.size,
        )
        file.flush()
        os.fsync(file.fileno())


def _check(wanted: Wanted, part: Path) -> None:
    found = part.stat().st_size
    wrong = f"{found:,} bytes, expected {wanted.size:,}" if found != wanted.size else ""
    if not wrong and wanted.sha256 is not None and (digest := sha256_file(part)) != wanted.sha256:
        wrong = f"sha256 {digest}, expected {wanted.sha256}"
    if wrong:
        part.unlink()
        raise HashMismatch(
            f"{wanted.name} of {wanted.repo!r} arrived with {wrong}; run `agent models pull {wanted.repo}` "
            "again"
        )


@contextmanager
def _no_bar() -> Iterator[None]:
    # The client draws its bar unless this logger is silent; the caller reports progress by itself.
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    drawn = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if drawn:
            enable_progress_bars()


@contextmanager
def hub_errors(repo: str, revision: str, home: Path) -> Iterator[None]:
    """Translate the Hub client's errors into this package's, with the page to visit or the command to run.

    Args:
        repo: Hub id.
        revision: What was asked for.
        home: The repository's folder in the cache, for a copy by hand.

    Raises:
        UnknownModel: No such repository or revision.
        GatedModel: The licence is not accepted, or the token is missing or refused.
        FetchFailed: No network, or the Hub refused or broke off.
    """
    import httpx
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    try:
        yield
    except LLMError:
        raise
    except errors.GatedRepoError as error:
        raise GatedModel(
            f"{repo!r} is gated: accept its licence at {page}, then log in with `hf auth login` (or set "
            f"HF_TOKEN) and pull again; the Hub said: {_said(error)}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownModel(
            f"expected a repository {repo!r} on the Hub, found none that this token may see; check the name "
            f"at {page}, and for a private one log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UnknownModel(
            f"expected revision {revision!r} in {repo!r}, found none; {page}/tree/main has its branches and "
            "tags"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo, home, error) from error
    except json.JSONDecodeError as error:
        raise DamagedCheckpoint(
            f"expected JSON in the configuration of {repo!r}, found: {error}; tell its authors, take another "
            "model"
        ) from error
    except (
        ConnectionError,
        httpx.HTTPError,
        errors.EntryNotFoundError,
        errors.OfflineModeIsEnabled,
    ) as error:
        raise FetchFailed(_no_network(repo, home, error)) from error


def _refused(repo: str, home: Path, error: Exception) -> LLMError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return GatedModel(
            f"the Hub refused this token for {repo!r} ({status}): {_said(error)}; make a new one at "
            f"https://huggingface.co/settings/tokens and log in with `hf auth login`"
        )
    return FetchFailed(_no_network(repo, home, error))


def _said(error: Exception) -> str:
    text = str(getattr(error, "server_message", None) or error).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def _no_network(repo: str, home: Path, error: Exception) -> str:
    return (
        f"could not fetch {repo!r}: {_said(error)}; check the network (and that HF_HUB_OFFLINE is not set) "
        f"and pull again, it goes on where it stopped; or copy {str(home)!r} from a machine that has pulled "
        "it"
    )
