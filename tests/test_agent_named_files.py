"""A message names a file only if the file exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.planner.arguments import named_file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("README.md", "sub/notes.txt", "a b.txt", "Makefile"):
        (tmp_path / name).write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("what is in README.md", "README.md"),
        ("What is in `README.md`?", "README.md"),
        ("compare (sub/notes.txt) with that", "sub/notes.txt"),
        ("read README.md.", "README.md"),
        ("./README.md: what does it say?", "./README.md"),
        ("is gone.md like README.md?", "README.md"),
        ("what is a README.rst for?", None),
        ("what is in sub/ or in . or in ..", None),
        ("the Makefile", None),  # a word; only what looks like a file's name is looked up
        ("~nobody/x.txt and \0.md and " + "a/" * 200 + "x.md", None),
        ("", None),
        ("word " * 200 + "README.md", None),  # far down in a pasted page
    ],
)
def test_a_name_counts_where_the_file_is_there(message: str, name: str | None) -> None:
    assert named_file(message) == name


def test_relative_names_are_looked_up_where_the_tool_reads(here: Path) -> None:
    assert named_file("see notes.txt", [here / "sub"]) == "notes.txt"
    assert named_file("see README.md", [here / "sub"]) is None
    assert named_file(f"see {here}/README.md", [here / "sub"]) == f"{here}/README.md"
