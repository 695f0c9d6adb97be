"""run_python, write_code and read_file as tools: what the model is told, and what read_file refuses."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedChat

from chains.code import code_chain
from sandbox import Limits, RunResult, Sandbox
from tools.read_file import FileRefusedError, read_file_tool, read_text
from tools.run_python import run_python_tool, told
from tools.write_code import write_code_tool


def _call(tool: Any, **arguments: Any) -> Any:
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


def test_run_python_tells_the_output_and_keeps_the_result() -> None:
    message = _call(run_python_tool(), code="import sys\nprint(6 * 7, sys.stdin.read())", stdin="in")
    assert message.content == "42 in"
    assert isinstance(message.artifact, RunResult) and message.artifact.ok


def test_run_python_tells_how_a_program_failed() -> None:
    content = _call(run_python_tool(), code="print('so far')\nraise ValueError('boo')").content
    assert content.startswith("status: error, exit code 1\nso far") and "ValueError: boo" in content


def test_run_python_tells_of_a_limit() -> None:
    tool = run_python_tool(Sandbox(Limits(wall_s=1)))
    assert _call(tool, code="import time\ntime.sleep(9)").content.startswith("status: timeout (wall)")


async def test_run_python_runs_in_an_event_loop() -> None:
    assert await run_python_tool().ainvoke({"code": "print(1)"}) == "1"


def test_long_output_and_escapes_are_made_fit_to_read() -> None:
    result = RunResult(status="ok", exit_code=0, stdout="\x1b[2J" + "x" * 9000, stderr="")
    text = told(result)
    assert text.startswith("\\x1b[2Jx") and text.endswith("characters left out]") and len(text) < 4100


def test_write_code_tells_the_claim_before_the_code() -> None:
    replies = ["def f(x):", "```python\ndef f(x):\n    return 2 * x\n```"]
    tool = write_code_tool(code_chain(ScriptedChat(replies=[*replies]), Sandbox().run))
    message = _call(tool, request="double", examples=["f(2) == 4"])
    assert message.content.startswith("It was run, and all 1 of your examples passed.\n\n```python\ndef f")
    assert message.artifact.verified


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "notes.txt").write_text("first\nsecond\n", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("hidden", encoding="utf-8")
    return allowed


def test_read_file_reads_below_its_folders(folder: Path) -> None:
    tool = read_file_tool([folder])
    assert tool.invoke({"path": "notes.txt"}) == "first\nsecond\n"
    assert tool.invoke({"path": str(folder / "notes.txt")}) == "first\nsecond\n"
    assert tool.invoke({"path": f"../{folder.name}/notes.txt"}) == "first\nsecond\n"


def test_read_file_reads_long_files_in_parts(folder: Path) -> None:
    tool = read_file_tool([folder], max_bytes=6)
    assert tool.invoke({"path": "notes.txt"}) == "first\n\n[7 bytes left; call again with offset 6]"
    assert (
        tool.invoke({"path": "notes.txt", "offset": 6}) == "second\n[1 bytes left; call again with offset 12]"
    )


@pytest.mark.parametrize(
    "path", ["../secret.txt", "/etc/passwd", "~/.bashrc", "link", "folder-link/secret.txt"]
)
def test_what_lies_outside_is_refused_and_its_existence_not_told(folder: Path, path: str) -> None:
    (folder / "link").symlink_to(folder.parent / "secret.txt")
    (folder / "folder-link").symlink_to(folder.parent)
    with pytest.raises(FileRefusedError, match="below the allowed folders") as there:
        read_text(path, [folder])
    with pytest.raises(FileRefusedError) as missing:
        read_text("../nothing.txt", [folder])
    assert str(there.value).replace(repr(path), "") == str(missing.value).replace("'../nothing.txt'", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub", "a folder"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("missing", "No such file"),
        ("", "a path"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting(folder: Path, name: str, reason: str) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
        with pytest.raises(FileRefusedError, match=reason):
            read_text(name, [folder])


def test_devices_are_refused_even_where_everything_is_allowed() -> None:
    for path in ("/dev/zero", "/dev/null", "/dev/tty"):
        with pytest.raises(FileRefusedError):
            read_text(path, [Path("/")])


def test_binary_files_are_refused(folder: Path) -> None:
    (folder / "binary").write_bytes(b"\x7fELF\0\0")
    assert "binary data" in read_file_tool([folder]).invoke({"path": "binary"})


def test_no_folders_allow_nothing(folder: Path) -> None:
    with pytest.raises(FileRefusedError, match=r"\(none\)"):
        read_text(str(folder / "notes.txt"), [])


def test_a_link_swapped_between_check_and_open_reads_nothing_outside(folder: Path) -> None:
    inside, outside, link = folder / "notes.txt", folder.parent / "secret.txt", folder / "swapped"
    link.symlink_to(inside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in (outside, inside):
                fresh = folder / "fresh"
                fresh.symlink_to(target)
                os.replace(fresh, link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = {read_file_tool([folder]).invoke({"path": "swapped"})[:7] for _ in range(1500)}
    finally:
        stop.set()
        thread.join()
    assert "hidden" not in seen and seen <= {"first\ns", "error: "}
