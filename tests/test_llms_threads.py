"""The bound on OpenMP's spinning: set before torch is imported, and never over a choice of the user's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llms.threads import configure_threads


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "2000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_the_bound_is_set_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    configure_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_what_would_wait_for_ever_under_the_policy_is_bounded_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    configure_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["KMP_BLOCKTIME"] == "1"


def test_a_program_sets_it_before_torch() -> None:
    program = (
        "import os, sys; from llms.threads import configure_threads; configure_threads()\n"
        "assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2000"


CONFIGURED = "from llms.threads import configure_threads; configure_threads()"
LATE = """
import os, threading
{first}
from llms.threads import bound_spinning
import torch
torch.set_num_threads({threads})
torch.zeros(2**20).add_(1)
before = len(os.listdir("/proc/self/task"))
bound_spinning()
bound_spinning()
names = [thread.name for thread in threading.enumerate()].count("llm-openmp")
print(names, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize(
    ("first", "threads", "given", "expected"),
    [
        (f"import torch; {CONFIGURED}", 2, {}, "1 2"),  # the idle thread, and the other one of its team
        (f"import torch; {CONFIGURED}", 1, {}, "0 0"),
        (f"{CONFIGURED}; import torch", 2, {}, "0 0"),
        (f"import torch; {CONFIGURED}", 2, {"GOMP_SPINCOUNT": "7"}, "0 0"),
        ("import llms, torch", 2, {}, "1 2"),  # nobody has configured anything
    ],
)
def test_where_torch_came_first_a_second_team_bounds_the_spinning(
    first: str, threads: int, given: dict[str, str], expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(first=first, threads=threads)],
        env={"PATH": "/usr/bin:/bin", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
