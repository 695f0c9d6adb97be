"""The progress bar: drawn, updated and removed on a terminal; lines or nothing elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from agent_terminal import Terminal

ROOT = Path(__file__).parent.parent

PROGRAM = """
import sys, time
from agent.cli.console import Step, progress_bar
total, fails, text = int(sys.argv[1]), sys.argv[2] == "fails", sys.argv[3]
with progress_bar("parts") as bar:
    for done in range(5):
        bar(Step(done=done, total=total, text=text))
        time.sleep(0.15)
    if fails:
        raise SystemExit(3)
print("after")
"""


def terminal(total: int, *, fails: bool = False, text: str = "", columns: int = 80) -> Terminal:
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    how = "fails" if fails else "ends"
    return Terminal([sys.executable, "-c", PROGRAM, str(total), how, text], env, columns=columns)


@pytest.mark.parametrize("columns", [40, 80])
def test_it_counts_up_and_is_gone_before_what_comes_after(columns: int) -> None:
    shown = terminal(4, columns=columns)
    for done in ("0/4", "2/4", "4/4"):
        shown.expect(done)
    shown.expect("after")
    assert shown.wait() == 0
    assert "parts" in shown.text and "━" in shown.text
    assert shown.seen.rindex("\x1b[2K") < shown.seen.index("after")  # the bar's line is wiped
    assert "\x1b[?25l" in shown.seen and shown.seen.rindex("\x1b[?25h") > shown.seen.rindex("\x1b[?25l")


def test_without_a_total_it_still_counts() -> None:
    shown = terminal(0, text="reading")
    shown.expect("parts: reading")
    shown.expect("/?")
    assert shown.wait() == 0


def test_a_long_name_is_cut_and_wraps_no_line() -> None:
    shown = terminal(4, text="a/very/long/path/" * 9)
    shown.expect("4/4")
    assert shown.wait() == 0
    assert "a/very/long" in shown.text and "a/very/long/path/" * 4 not in shown.text
    drawn = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.seen))
    assert 60 < max(map(len, drawn)) <= 80


def test_an_error_gives_the_cursor_back() -> None:
    shown = terminal(4, fails=True)
    assert shown.wait() == 3
    assert shown.seen.rindex("\x1b[?25h") > shown.seen.rindex("\x1b[?25l")


def test_no_terminal_no_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "4", "ends", ""], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "after\n", "")  # a line every ten seconds only
