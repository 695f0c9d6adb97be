"""Pulling a model from the Hugging Face Hub: once, whole or not at all, going on where it stopped.

Knows the Hub's client and which files a checkpoint needs. Refuses everything but safetensors, configuration
and tokenizer files, and a configuration that asks for code, before the weights come. What is here already is
`llms.sources.hub_cache`'s to know.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from llms.checkpoint.facts import INDEX, PICKLES, TOKENIZERS, WEIGHTS, check_config
from llms.checkpoint.folder import Notify, disk_errors, folder_bytes, locked, require_space, silent, size_text
from llms.errors import UnsupportedModel
from llms.sources.fetch import Progress, no_progress
from llms.sources.hub_cache import Pulled, add_record, home_of, is_there, locate_common, read_records
from llms.sources.hub_files import Wanted, fetch_file, hub_errors

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

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


def pull(
    repo: str,
    revision: str | None,
    cache: Path,
    *,
    notify: Notify = silent,
    progress: Progress = no_progress,
    token: str | None = None,
) -> Pulled:
    """Fetch a repository's safetensors, configuration and tokenizer; an interrupted pull is resumed.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None for `main`.
        cache: The cache's root.
        notify: Takes a line before each slow step.
        progress: Told of the bytes that have arrived.
        token: Access token; None for the one that the Hub's client has stored.

    Raises:
        UnknownModel: No such repository or revision.
        GatedModel: The licence is not accepted, or the token is missing or refused.
        UnsupportedModel: No safetensors, no tokenizer, no decoder, or a configuration that asks for code.
        FetchFailed: No network, or the Hub broke off.
        HashMismatch: A file arrived with another size than the Hub announced.
        NoSpace: The disk has no room for it.
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
            return Pulled(repo=repo, revision=asked, commit=commit, folder=common, size=_size(common))
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
                wanted = Wanted(
                    repo=repo, name=name, commit=commit, size=files[name], sha256=hashes.get(name)
                )
                path = fetch_file(wanted, folder=folder, parts=home / "parts", token=token)
                if name in CONFIGS:
                    check_config(json.loads(path.read_text(encoding="utf-8")), f"{repo}/{name}")
        add_record(home, repo, asked, commit, files, hashes)
        shutil.rmtree(home / "parts")
    return Pulled(repo=repo, revision=asked, commit=commit, folder=folder, size=sum(files.values()))


def select(repo: str, sizes: dict[str, int]) -> dict[str, int]:
    """Choose what a checkpoint needs from a repository's files.

    Args:
        repo: Hub id, for the message.
        sizes: Every file's name and size in bytes.

    Raises:
        UnsupportedModel: No safetensors, configuration or tokenizer.
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
            "give the adapter's folder with --adapter"
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
    # Configurations first, as they may be refused; then small before large.
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
    """Link files that an earlier revision has already, and drop what has another size than announced."""
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
    """Report the size of what has arrived, complete or not, until the block ends."""
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
