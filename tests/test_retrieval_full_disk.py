"""A disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("retrieval_tmpfs_driver.py")
MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'


def on_a_small_disk(size: str, disk: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run `command` with a file system of its own at `disk`, which disappears with the last process."""
    disk.mkdir()
    line = ["unshare", "-Urm", "sh", "-c", MOUNT, "sh", size, str(disk), *map(str, command)]
    return subprocess.run(line, capture_output=True, text=True, timeout=170)


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not shutil.which("unshare"):
        pytest.skip("unshare (util-linux) is not installed")
    probe = on_a_small_disk("64k", tmp_path_factory.mktemp("probe") / "disk", "true")
    if probe.returncode:
        pytest.skip(f"this kernel refuses namespaces to users: {probe.stderr.strip()}")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    ("index", "free"), [("exact", [0, 24, 96, 200, 3000]), ("chroma", [0, 60, 300, 700, 4000])]
)
def test_a_full_disk_loses_nothing(tmp_path: Path, index: str, free: list[int]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    done = on_a_small_disk(
        "8m", tmp_path / "disk", sys.executable, DRIVER, tmp_path / "disk", docs, index, *free
    )
    assert done.returncode == 0, (done.stderr or done.stdout)[-3000:]
    found = json.loads(done.stdout)
    assert found["rounds"] == len(free) and found["met"]["done"] >= 1
    assert found["met"]["StoreUnwritable"] >= 2, found  # and the disk was full


@pytest.mark.slow
@pytest.mark.usefixtures("namespaces")
@pytest.mark.timeout(600)
def test_a_disk_that_is_full_at_any_point_loses_nothing(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    free = range(0, 1600, 80)
    done = on_a_small_disk(
        "12m", tmp_path / "disk", sys.executable, DRIVER, tmp_path / "disk", docs, "chroma", *free
    )
    assert done.returncode == 0, (done.stderr or done.stdout)[-3000:]
    assert set(json.loads(done.stdout)["met"]) >= {"done", "whole", "StoreUnwritable"}
