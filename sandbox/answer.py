"""Reads what the stage left: exit code, peak memory, files. Untrusted: only its size is believed."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sandbox import stage
from sandbox.limits import Limits


@dataclass
class Answer:
    """The stage's answer, checked.

    Attributes:
        exit_code: the program's, minus the signal's number if a signal ended it.
        peak: largest resident set of the program's process in bytes.
        cut: files were left out, or the answer is damaged.
        files: path below the work folder -> content.
    """

    exit_code: int = 0
    peak: int = 0
    cut: bool = False
    files: dict[str, bytes] = field(default_factory=dict)


def parse(data: bytes, limits: Limits) -> Answer:
    """Read an answer; a damaged or forged one gives what could be read, with `cut` set."""
    broken = Answer(exit_code=1, cut=True)
    if len(data) < stage.HEADER.size:
        return broken
    magic, code, peak, cut, count = stage.HEADER.unpack_from(data)
    if magic != stage.MAGIC:
        return broken
    answer = Answer(exit_code=code, peak=min(peak, 1 << 50), cut=bool(cut))
    at = stage.HEADER.size
    for _ in range(min(count, limits.files)):
        try:
            length, size = stage.ENTRY.unpack_from(data, at)
        except struct.error:
            answer.cut = True
            break
        at += stage.ENTRY.size
        name, at = data[at : at + length].decode("utf-8", "surrogateescape"), at + length
        if at + size > len(data) or not is_inside(name):
            answer.cut = True
            break
        answer.files[name], at = data[at : at + size], at + size
    return answer


def is_inside(name: str) -> bool:
    """Whether a relative path stays below its folder (nothing is resolved: there are no links yet)."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\0" not in name
        and len(name) < 4096
    )
