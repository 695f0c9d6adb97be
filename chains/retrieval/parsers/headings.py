"""Turns a list of headings with levels into blocks with heading paths.

Shared by every format that has headings; knows offsets and levels only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chains.retrieval.document import Block


class Heading(NamedTuple):
    """A heading: where its line starts, where its body starts, level (1 is the top) and text."""

    start: int
    body: int
    level: int
    text: str


def sections(headings: Iterable[Heading], length: int, title: str = "") -> tuple[Block, ...]:
    """One block for each heading and one for what precedes the first; each starts at its heading's own line.

    A top heading equal to `title` is left out of the paths: the title stands before them anyway.
    """
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    start, label = 0, ""
    for heading in headings:
        if heading.start > start:
            blocks.append(Block(start=start, end=heading.start, heading=label))
        while path and path[-1][0] >= heading.level:
            path.pop()
        path.append((heading.level, heading.text))
        names = [text for _, text in path]
        if len(names) > 1 and names[0] == title:
            names = names[1:]
        start, label = heading.start, " > ".join(names)
    blocks.append(Block(start=start, end=length, heading=label))
    return tuple(blocks)
