"""Models of the Hugging Face Hub: fetched once, whole or not at all, and found again without the network.

`pull` takes only safetensors, configuration and tokenizer files, and refuses a configuration that asks for
code before the weights are fetched. `locate` finds what is here with a few `stat` calls: this application's
own cache, then the Hub's common cache, which other programs fill and which is never changed here.

    >>> from llms.models.catalog import cache_dir
    >>> found = pull("mistralai/Mistral-7B-Instruct-v0.3", None, cache_dir())  # doctest: +SKIP
    >>> locate(found.repo, None, cache_dir()) == found.folder                  # doctest: +SKIP
    True

An interrupted download resumes. `hf_hub_download` of huggingface_hub 1.x starts a file again after a kill,
because it writes to a new temporary name each time. A shard of Mistral-7B has 5 GB, so `fetch_file` keeps the
name of a partial file, and the caller's lock keeps other processes away from it. Importing this module does
not import torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import (
    DamagedCheckpoint,
    FetchFailed,
    GatedModel,
    HashMismatch,
    LLMError,
    UnknownModel,
    UnsupportedModel,
)
from llms.models.catalog import HubPlace
from llms.models.checkpoint import (
    INDEX,
    PICKLES,
    TOKENIZERS,
    WEIGHTS,
    Notify,
    Progress,
    check_config,
    disk_errors,
    folder_bytes,
    locked,
    no_progress,
    require_space,
    sha256_file,
    silent,
    size_text,
    weight_files,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_RECORD = "pulled.json"
SHARDS = "model-*-of-*.safetensors"
CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")
SMALL_FILES = (
    *CONFIGS,
    *TOKENIZERS,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_POLL_S = 0.5


# ---- Pulling -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A model that was pulled.

    Attributes:
        repo: Its Hub id.
        revision: The branch, tag or commit that was asked for.
        commit: The commit that it meant at that time.
        folder: The checkpoint.
        size: Its size in bytes.
    """

    repo: str
    revision: str
    commit: str
    folder: Path
    size: int


def pull(
    repo: str,
    revision: str | None,
    cache: Path,
    *,
    notify: Notify = silent,
    progress: Progress = no_progress,
    token: str | None = None,
) -> PulledModel:
    """Fetch a repository's safetensors, configuration and tokenizer; an interrupted pull resumes.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for `main`.
        cache: The cache's root.
        notify: Receives a line before each slow step.
        progress: Receives the number of bytes that have arrived.
        token: Access token; None for the one that the Hub's client has stored.

    Raises:
        UnknownModel: No such repository or revision.
        GatedModel: The licence is not accepted, or the token is missing or refused.
        UnsupportedModel: There are no safetensors or no tokenizer, it is not a causal decoder, or its
            configuration asks for code.
        FetchFailed: There is no network, or the Hub broke off.
        HashMismatch: A file arrived with another size or hash than the Hub announced.
        NoSpace: The disk has too little free space.
        CacheNotWritable: The cache cannot be written.
    """
    asked = revision or "main"
    home = home_of(repo, cache)
    with locked(home, notify), hub_errors(repo, asked, home), disk_errors(home):
        notify(f"asking the Hub for {repo} ({asked})")
        info = _info(repo, asked, token)
        commit, siblings = str(info.sha), info.siblings or []
        if (common := locate_common(repo, commit)) is not None:
            notify(f"{repo} is whole in the Hub's common cache ({common}); nothing to fetch")
            return PulledModel(repo=repo, revision=asked, commit=commit, folder=common, size=_size(common))
        files = select(repo, {item.rfilename: int(item.size or 0) for item in siblings})
        hashes = {item.rfilename: item.lfs.sha256 for item in siblings if item.lfs is not None}
        folder = home / "snapshots" / commit
        for place in (folder, home / "parts"):
            place.mkdir(parents=True, exist_ok=True)
        _reuse(home, folder, files, hashes)
        with _reported(home, folder, repo, sum(files.values()), progress):
            for name in _in_order(files):
                if name == _first_large(files):
                    _announce(home, folder, repo, files, notify)
                wanted = HubFile(
                    repo=repo, name=name, commit=commit, size=files[name], sha256=hashes.get(name)
                )
                path = fetch_file(wanted, folder=folder, parts=home / "parts", token=token)
                if name in CONFIGS:
                    check_config(json.loads(path.read_text(encoding="utf-8")), f"{repo}/{name}")
        add_record(home, repo, asked, commit, files, hashes)
        shutil.rmtree(home / "parts")
    return PulledModel(repo=repo, revision=asked, commit=commit, folder=folder, size=sum(files.values()))


def select(repo: str, sizes: dict[str, int]) -> dict[str, int]:
    """Return the files of a repository that a checkpoint needs, with their sizes.

    Args:
        repo: Hub id, for the message.
        sizes: Every file's name and size in bytes.

    Raises:
        UnsupportedModel: There are no safetensors, configuration or tokenizer.
    """
    if INDEX in sizes:
        weights = {name for name in sizes if name == INDEX or (fnmatch(name, SHARDS) and "/" not in name)}
    else:
        weights = {WEIGHTS} & sizes.keys()
    if not any(name.endswith(".safetensors") for name in weights):
        others = sorted(name for name in sizes if name.endswith((*PICKLES, ".gguf", ".safetensors")))
        raise UnsupportedModel(
            f"expected {WEIGHTS} (or shards with an index) in {repo!r}, found {others[:4] or 'no weights'}; "
            "pickles are never opened: take a revision or repository with safetensors, or download a .gguf "
            "and give its path"
        )
    if "config.json" not in sizes:
        raise UnsupportedModel(
            f"expected config.json in {repo!r}, found none; is it an adapter? Then pull its base model and "
            "give the adapter's folder as adapter="
        )
    if not any(name in sizes for name in TOKENIZERS):
        raise UnsupportedModel(
            f"expected a tokenizer ({', '.join(TOKENIZERS)}) in {repo!r}, found none; pull the base model "
            "instead"
        )
    return {name: sizes[name] for name in sorted(weights | (set(SMALL_FILES) & sizes.keys()))}


def _info(repo: str, revision: str, token: str | None) -> ModelInfo:
    from huggingface_hub import HfApi

    return HfApi(token=token).model_info(repo, revision=revision, files_metadata=True)


def _in_order(files: dict[str, int]) -> list[str]:
    # Configurations come first, because they may be refused; then small files before large ones.
    return sorted(files, key=lambda name: (name not in CONFIGS, files[name], name))


def _first_large(files: dict[str, int]) -> str:
    return next(name for name in _in_order(files) if name not in CONFIGS)


def _announce(home: Path, folder: Path, repo: str, files: dict[str, int], notify: Notify) -> None:
    missing = sum(size for name, size in files.items() if not is_there(folder, name, size))
    begun = folder_bytes(home / "parts")
    require_space(home, max(missing - begun, 0) + 2**24, f"pulling {repo}")
    if missing:
        left = size_text(missing - begun)
        after = f" ({size_text(begun)} are here already)" if begun else ""
        notify(f"fetching {left} of {repo} into {home}{after}")


def _reuse(home: Path, folder: Path, files: dict[str, int], hashes: dict[str, str]) -> None:
    """Link files that an earlier revision has, and delete files with another size than announced."""
    for name, size in files.items():
        if not is_there(folder, name, size):
            (folder / name).unlink(missing_ok=True)
    for entry in read_records(home).values():
        for name, known in entry["files"].items():
            old = home / "snapshots" / entry["commit"]
            same = name in hashes and hashes[name] == known["sha256"] and is_there(old, name, files[name])
            if same and not (folder / name).exists():
                os.link(old / name, folder / name)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


@contextmanager
def _reported(home: Path, folder: Path, repo: str, total: int, progress: Progress) -> Iterator[None]:
    """Report how much has arrived, partial files included, until the block ends."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            with suppress(OSError):
                progress(repo, min(folder_bytes(folder) + folder_bytes(home / "parts"), total), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(repo, total, total)


# ---- Models on this machine --------------------------------------------------------------------


def locate(repo: str, revision: str | None, cache: Path) -> Path | None:
    """Return the folder of a model that is whole on this machine, else None. The network is not used.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for `main`.
        cache: The cache's root; the Hub's common cache is searched after it.
    """
    home, asked = home_of(repo, cache), revision or "main"
    for name, entry in read_records(home).items():
        if asked in (name, entry["commit"]):
            folder = home / "snapshots" / str(entry["commit"])
            if all(is_there(folder, file, known["size"]) for file, known in entry["files"].items()):
                return folder
    return locate_common(repo, asked)


def locate_common(repo: str, revision: str) -> Path | None:
    """Return a checkpoint that another program put into the Hub's common cache; None if it is not whole."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    commit = revision
    with suppress(OSError):
        commit = (home / "refs" / revision).read_text(encoding="utf-8").strip()
    folder = home / "snapshots" / commit
    try:
        sizes = [path.stat().st_size for path in (folder / "config.json", *weight_files(folder))]
    except (LLMError, OSError):
        return None
    return folder if all(sizes) and any((folder / name).is_file() for name in TOKENIZERS) else None


def pulled(cache: Path) -> list[PulledModel]:
    """Return the models in this application's cache, sorted by Hub id."""
    found = []
    for home in sorted((cache / "hub").glob("models--*")):
        for name, entry in read_records(home).items():
            folder = home / "snapshots" / entry["commit"]
            size = sum(known["size"] for known in entry["files"].values())
            found.append(
                PulledModel(
                    repo=entry["repo"], revision=name, commit=entry["commit"], folder=folder, size=size
                )
            )
    return found


def remove(repo: str, cache: Path, revision: str | None = None) -> int:
    """Delete a pulled model from this application's cache; return the freed bytes.

    Args:
        repo: Hub id.
        cache: The cache's root. The Hub's common cache stays as it is.
        revision: The one revision to delete; None for all of them.

    Raises:
        CacheNotWritable: The files cannot be deleted.
    """
    home = home_of(repo, cache)
    if not home.exists():
        return 0
    size = folder_bytes(home)
    with locked(home), disk_errors(home):
        others = {name: entry for name, entry in read_records(home).items() if name != revision}
        if revision is not None and others:
            gone = read_records(home).get(revision, {}).get("commit")
            _write_records(home, others)
            if gone and all(entry["commit"] != gone for entry in others.values()):
                shutil.rmtree(home / "snapshots" / gone)
            return size - folder_bytes(home)
        # The record is deleted first, so that an interrupted deletion leaves nothing that looks whole.
        (home / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(home)
    return size


def home_of(repo: str, cache: Path) -> Path:
    """Return a repository's folder in this application's cache, whether or not it exists."""
    return cache / "hub" / f"models--{repo.replace('/', '--')}"


def is_there(folder: Path, name: str, size: int) -> bool:
    """Return whether a file exists with this size in bytes."""
    path = folder / name
    return path.is_file() and path.stat().st_size == size


def read_records(home: Path) -> dict[str, Any]:
    """Return the record of a repository: revision -> repo, commit and files (size, sha256)."""
    try:
        found = json.loads((home / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_record(
    home: Path, repo: str, revision: str, commit: str, files: dict[str, int], hashes: dict[str, str]
) -> None:
    """Record that a revision is whole on this machine, with its files' sizes and hashes."""
    known = {name: {"size": size, "sha256": hashes.get(name)} for name, size in files.items()}
    _write_records(home, {**read_records(home), revision: {"repo": repo, "commit": commit, "files": known}})


def _write_records(home: Path, records: dict[str, Any]) -> None:
    part = home / f"{_RECORD}.partial"
    with part.open("w", encoding="utf-8") as file:
        json.dump(records, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(home / _RECORD)


# ---- One file ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of a repository, as the Hub announces it.

    Attributes:
        repo: Hub id.
        name: The file's name in the repository.
        commit: The commit to take it from.
        size: Its size in bytes.
        sha256: Its hash; None if the Hub announces none, as for small files.
    """

    repo: str
    name: str
    commit: str
    size: int
    sha256: str | None

    @property
    def part(self) -> str:
        """Return the name of the partial file."""
        return f"{self.sha256 or self.commit}-{self.name.replace('/', '--')}.incomplete"


def fetch_file(wanted: HubFile, *, folder: Path, parts: Path, token: str | None) -> Path:
    """Fetch one file into a folder, under its name only once it is whole; return its path.

    Args:
        wanted: The file.
        folder: The folder that receives it.
        parts: The folder of partial files.
        token: Access token; None for the one that the Hub's client has stored.

    Raises:
        HashMismatch: The file has another size or hash than announced; it is deleted.
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
            part.unlink()  # refused before the first byte, so there is nothing to resume
    _check(wanted, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    return target


def _append(wanted: HubFile, part: Path, token: str | None) -> None:
    """Fetch the rest of a partial file, and flush it to the disk."""
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


REACH_S = 5.0
"""Seconds after which a Hub that has not answered is given up."""


def append_file(
    place: HubPlace, part: Path, *, size: int, sha256: str | None, begin: Callable[[], None] = lambda: None
) -> str | None:
    """Append the rest of a partial file from a repository; return the hash that is expected of the whole.

    Args:
        place: The repository and its file.
        part: The partial file.
        size: Size of the whole in bytes.
        sha256: Hex digest of the whole; None takes the one that the Hub announces.
        begin: Called once the Hub has answered, before the first byte.

    Raises:
        FetchFailed: The Hub did not answer within `REACH_S` seconds, or it broke off.
        UnknownModel, GatedModel: The Hub refused.
        HashMismatch: The Hub announces another size or hash.
    """
    try:
        with hub_errors(place.repo, place.revision, part.parent):
            commit, announced, found = _announced(place)
            if found is not None and found != size:
                raise HashMismatch(f"expected {place.file} of {size:,} bytes, found {found:,}")
            if sha256 is not None and announced not in (None, sha256):
                raise HashMismatch(f"expected {place.file} with sha256 {sha256}, found {announced}")
            begin()
            if part.stat().st_size < size:
                wanted = HubFile(repo=place.repo, name=place.file, commit=commit, size=size, sha256=sha256)
                _append(wanted, part, None)
    except FetchFailed as error:
        raise FetchFailed(_said(error.__cause__ or error)) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise FetchFailed(str(error)) from error  # the client's own checks of what arrived
    return sha256 or announced


def _announced(place: HubPlace) -> tuple[str, str | None, int | None]:
    """Return the commit, the SHA-256 (None if it is not that of a large file) and the size of a file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import OfflineModeIsEnabled

    if is_offline_mode():
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    answer: list[Any] = []

    def ask() -> None:
        try:
            url = hf_hub_url(place.repo, place.file, revision=place.revision)
            answer.append(get_hf_file_metadata(url, timeout=REACH_S))
        except Exception as error:  # raised again in the thread that waits
            answer.append(error)

    # A name server that does not answer keeps a lookup longer than any time-out of the client.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_S)
    if not answer:
        raise ConnectionError(f"it did not answer within {REACH_S:g} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    found = answer[0]
    etag = str(found.etag or "")
    return (
        str(found.commit_hash or place.revision),
        etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None,
        int(found.size) if found.size is not None else None,
    )


def _check(wanted: HubFile, part: Path) -> None:
    found = part.stat().st_size
    wrong = f"{found:,} bytes, expected {wanted.size:,}" if found != wanted.size else ""
    if not wrong and wanted.sha256 is not None and (digest := sha256_file(part)) != wanted.sha256:
        wrong = f"sha256 {digest}, expected {wanted.sha256}"
    if wrong:
        part.unlink()
        raise HashMismatch(
            f"{wanted.name} of {wanted.repo!r} arrived with {wrong}",
            hint=f'llms.models.pull("{wanted.repo}")',
        )


@contextmanager
def _no_bar() -> Iterator[None]:
    # The client draws a progress bar unless it is disabled; progress is reported to the caller here.
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
    """Translate the Hub client's errors into this package's, with the page to visit or the next step.

    Args:
        repo: Hub id.
        revision: The branch, tag or commit that was asked for.
        home: The repository's folder in the cache, for a copy by hand.

    Raises:
        UnknownModel: There is no such repository or revision.
        GatedModel: The licence is not accepted, or the token is missing or refused.
        FetchFailed: There is no network, or the Hub refused or broke off.
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


def _said(error: BaseException) -> str:
    text = str(getattr(error, "server_message", None) or error).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def _no_network(repo: str, home: Path, error: Exception) -> str:
    return (
        f"could not fetch {repo!r}: {_said(error)}; check the network (and that HF_HUB_OFFLINE is not set) "
        f"and pull again, which resumes; or copy {str(home)!r} from a machine that has pulled it"
    )
