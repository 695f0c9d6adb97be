"""Every n-th write of a store fails. Committed documents are kept, and steps that succeeded are complete."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import write_faults
from retrieval_fakes import memory_folder

DRIVER = Path(__file__).with_name("retrieval_write_driver.py")
# A run has about 940 writes. The slices extend beyond that, so that no write is left out.
LAST, SLICE = 1201, 120


def tried(
    folder: Path, code: str, how: str, sample: int, timeout: float, places: tuple[int, int] | None = None
) -> dict[str, object]:
    command = [sys.executable, DRIVER, folder, code, how, str(sample), "5", *map(str, places or ())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (done.stderr or done.stdout)[-3000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_write_that_is_to_fail_fails_and_no_other(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()

    def work() -> str:
        told = []
        for path in (outside, inside / "a", inside / "a", inside / "a"):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                told.append(str(os.write(handle, b"four")))
            except OSError as error:
                told.append(errno.errorcode[error.errno or 0])
            os.close(handle)
        return " ".join(told)

    found = write_faults.run(work, inside, lambda number: errno.EIO if number == 2 else 0)
    assert found == ("4 4 EIO 4", 3) and (inside / "a").read_bytes() == b"fourfour"


@pytest.mark.parametrize(("code", "how"), [("EIO", "once"), ("ENOSPC", "on")])
def test_some_writes_fail(tmp_path: Path, code: str, how: str) -> None:
    found = tried(tmp_path / "x", code, how, sample=5, timeout=150)
    assert found["tried"] == 5 and int(str(found["writes"])) > 200


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1, LAST, SLICE))
@pytest.mark.parametrize(("code", "how"), [("EIO", "once"), ("ENOSPC", "on")])
def test_each_write_fails(code: str, how: str, first: int) -> None:
    with memory_folder() as folder:
        places = (first, first + SLICE - 1)
        found = tried(folder / "x", code, how, sample=0, timeout=1100, places=places)
    writes = int(str(found["writes"]))
    assert writes < LAST, "raise LAST: writes behind it were not tried"
    assert found["tried"] == max(0, min(SLICE, writes - first + 1))
    if how == "on" and found["tried"]:  # a single failure may be mended unseen, all after one may not
        assert set(found["met"]) > {"done"}  # type: ignore[call-overload]
