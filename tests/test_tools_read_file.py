"""read_file as a tool: the files it reads and the paths it refuses."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from retrieval_files import docx, eml

from tools.read_file import FileRefusedError, read_file_tool, read_text


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
    assert "a program in 'binary'" in read_file_tool([folder]).invoke({"path": "binary"})
    (folder / "data.txt").write_bytes(b"\0\1\2\3" * 9)
    assert "binary data" in read_file_tool([folder]).invoke({"path": "data.txt"})


def test_documents_are_read_as_a_store_reads_them(folder: Path) -> None:
    (folder / "policy.docx").write_bytes(docx())
    (folder / "mail").write_bytes(eml())
    (folder / "page.txt").write_bytes("Größe".encode("cp1252"))
    tool = read_file_tool([folder], max_bytes=40)
    first = tool.invoke({"path": "policy.docx"})
    assert "PK" not in first and "bytes left; call again with offset 40" in first
    assert tool.invoke({"path": "policy.docx", "offset": 40}) != first
    assert read_file_tool([folder]).invoke({"path": "mail"}).startswith("From: carol@example.org\n")
    assert tool.invoke({"path": "page.txt"}) == "Größe"


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


def test_one_folder_is_one_folder_not_the_folders_of_its_letters(folder: Path) -> None:
    for one in (str(folder), folder):
        tool = read_file_tool(one)
        assert tool.invoke({"path": "notes.txt"}) == "first\nsecond\n"
        assert "below the allowed folders" in tool.invoke({"path": "/etc/hostname"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": "~nobody-of-this-name/x"}, "cannot be read: Could not determine home directory"),
        ({"path": "half \ud800"}, "cannot be read: "),
        ({"path": "x" * 5000}, "cannot be read: File name too long"),
        ({"path": "notes.txt", "offset": 14}, "an offset within the file's 13 bytes, found 14"),
        ({"path": "notes.txt", "offset": 10**30}, "an offset within the file's 13 bytes"),
    ],
)
def test_what_no_file_could_be_is_told_to_the_model(
    folder: Path, arguments: dict[str, object], told: str
) -> None:
    call = {"type": "tool_call", "id": "1", "name": "read_file", "args": arguments}
    message = read_file_tool([folder]).invoke(call)
    assert message.status == "error" and told in message.content


def test_parts_end_between_characters(folder: Path) -> None:
    text = "\u65e5\u672c\u8a9e" * 5
    (folder / "long.txt").write_text(text, encoding="utf-8")
    for most in range(4, 12):
        found, offset = "", 0
        while offset < len(text.encode()):
            part = read_text("long.txt", [folder], offset=offset, max_bytes=most).partition("\n")[0]
            found, offset = found + part, offset + len(part.encode())
        assert found == text
    assert "\ufffd" in read_text("long.txt", [folder], max_bytes=2)
