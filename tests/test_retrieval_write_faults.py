"""Every n-th write of a store fails: what stood is kept, and what was said to be done is there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import write_faults

DRIVER = Path(__file__).with_name("retrieval_write_driver.py")


def tried(folder: Path, code: str, how: str, sample: int, timeout: float) -> dict[str, object]:
    command = [sys.executable, DRIVER, folder, code, how, str(sample), "5"]
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
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("code", "how"), [("EIO", "once"), ("ENOSPC", "on")])
def test_each_write_fails(tmp_path: Path, code: str, how: str) -> None:
    found = tried(tmp_path / "x", code, how, sample=0, timeout=3500)
    assert found["tried"] == found["writes"] and set(found["met"]) > {"done"}  # type: ignore[call-overload]
