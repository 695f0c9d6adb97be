"""Threads share two heaps of the C library, if it is one that has several heaps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
import ctypes, sys, threading
from agent.cli.startup import keep_few_heaps
done = keep_few_heaps() if sys.argv[1] == "few" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(8)
def work():
    together.wait()
    for _ in range(200):
        libc.malloc(5000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file)), libc.fclose(ctypes.c_void_p(file))
print(done, open(sys.argv[2]).read().count("<heap nr="))
"""


def heaps(how: str, folder: Path, **env: str) -> list[str]:
    given = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | env
    given["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", PROGRAM, how, str(folder / "heaps.xml")]
    done = subprocess.run(command, capture_output=True, text=True, env=given, cwd=folder)
    assert done.returncode == 0, done
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc, which this system has not")
def test_threads_share_two_heaps_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    done, few = heaps("few", tmp_path)
    assert done == "True" and int(few) <= 2
    assert int(heaps("many", tmp_path)[1]) > 2
    assert heaps("few", tmp_path, MALLOC_ARENA_MAX="6")[0] == "False"
