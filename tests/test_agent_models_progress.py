"""The progress of a download without a terminal: a line for every tenth, with rate and remaining time."""

from __future__ import annotations

import re

import pytest

from agent.cli.models_progress import download_bar


def test_a_line_is_written_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with download_bar() as bar:
        for done in range(1001):
            bar("model.gguf", done * 10**6, 10**9)
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"\d+ %", line)[0] for line in lines] == [f"{tenth}0 %" for tenth in range(1, 11)]
    assert all("model.gguf" in line and "of 1,000.0 MB" in line and "MB/s" in line for line in lines)
    assert "s left" in lines[0] and "left" not in lines[-1]


def test_what_an_earlier_start_left_does_not_count_as_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with download_bar() as bar:
        bar("model.gguf", 899 * 10**6, 10**9)
        bar("model.gguf", 900 * 10**6, 10**9)
    assert len(capsys.readouterr().err.splitlines()) == 2
