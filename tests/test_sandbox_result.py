"""The results of untrusted runs: forged reports, folders that are hard to remove, text with controls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Limits, RunResult, printable
from sandbox.remove import remove_tree
from sandbox.result import read_report
from sandbox.stage import ENTRY, HEADER, MAGIC


def test_a_forged_answer_is_cut_and_names_nothing_outside() -> None:
    entries = b"".join(
        ENTRY.pack(len(name), 2) + name + b"xx" for name in (b"good", b"../evil", b"after", b"/etc/x")
    )
    report = read_report(HEADER.pack(MAGIC, 0, 1, 0, 4) + entries, Limits())
    assert report.files == {"good": b"xx"} and report.cut
    for data in (b"", b"short", HEADER.pack(1, 0, 0, 0, 0), HEADER.pack(MAGIC, 0, 0, 0, 9) + b"\xff" * 5):
        assert read_report(data, Limits()).cut


def test_a_folder_that_was_made_hard_to_remove_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    code = "import os\nfor _ in range(1100):\n    os.mkdir('d'); os.chdir('d')\nos.mkdir('locked', 0)\n"
    code += "os.chdir('/'); os.symlink('/', os.environ['TOP'] + '/link')"
    subprocess.run([sys.executable, "-c", code], cwd=top, env={"TOP": str(top)}, check=True)
    remove_tree(str(top))
    assert not top.exists() and Path("/usr").exists()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07\x9b\x7f", "bell\\x07\\x9b\\x7f"),
        ("Caf\u00e9 \u65e5\u672c \U0001f600\r\n", "Caf\u00e9 \u65e5\u672c \U0001f600\n"),
        ("\u202egnp.exe\u2066\u2028", "\\u202egnp.exe\\u2066\\u2028"),
    ],
)
def test_untrusted_text_is_made_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_the_result_is_plain_data() -> None:
    assert RunResult(status="ok", exit_code=0, stdout="", stderr="").ok
