"""Markdown as it streams: styled for a terminal and wrapped between words, one word behind the model.

Headings, bold, emphasis, code, lists and quotes lose their marks where a style can stand for them; what is
opened and not closed on its line is shown as it was written. Nothing is ever drawn twice, so that a scrolled
or narrow terminal, and one that is copied from, show the text once. Knows text and widths; refuses to know
where the text comes from, and whether the terminal may have colour (the caller asks).
"""

from __future__ import annotations

import re

from rich.cells import cell_len

BOLD, DIM, ITALIC, CODE, RESET = "\x1b[1m", "\x1b[2m", "\x1b[3m", "\x1b[36m", "\x1b[0m"
_LEAST_WIDTH = 10
_FENCE = re.compile(r"\s*(?:```|~~~)")
_HEADING = re.compile(r"(#{1,6})\s+")
_BULLET = re.compile(r"(\s*)[-*+]\s+(?!\*)")
_NUMBER = re.compile(r"(\s*)(\d{1,3}[.)])\s+")
_QUOTE = re.compile(r"\s*>\s?")
_BLOCK = re.compile(r"\s*(?:#{1,6}|[-*+>]|\d{1,3}[.)]?|``?|~~?)?\s*$|\s*(?:```|~~~)")
"""A line that may still become a heading, an item, a quote or a fence: nothing of it is shown yet."""
_SPANS = re.compile(
    r"(?P<code>`[^`\n]+`)|(?P<bold>\*\*(?=\S)[^\n]+?(?<=\S)\*\*)"
    r"|(?P<italic>(?<![^\s(\"'\[])\*(?=[^\s*])[^*\n]+?(?<=[^\s*])\*(?![^\s.,;:!?)\"'\]]))"
)
"""Underscores are left alone: in what a model writes they belong to names (`__init__`) first of all."""
_STYLE = {"code": CODE, "bold": BOLD, "italic": ITALIC}
_OPENING = re.compile(r"`|\*\*(?=\S|$)|(?<![^\s(\"'\[])\*(?=[^\s*]|$)")


class Markdown:
    """A stream of Markdown; `feed` and `end` return what can be shown now, with this module's codes."""

    def __init__(self, width: int) -> None:
        self._width = max(width - 1, _LEAST_WIDTH)
        self._line = ""  # of the source, not shown yet
        self._begun = False  # whether the block mark of this line was looked at
        self._style = ""  # of the whole line
        self._indent = ""  # of the lines that wrapping adds
        self._column = 0
        self._fenced = False

    def feed(self, text: str) -> str:
        """The next piece of the source."""
        shown = ""
        *lines, rest = text.split("\n")
        for line in lines:
            self._line += line
            shown += self._whole_line()
        self._line += rest
        return shown + self._part()

    def end(self) -> str:
        """The source has ended; without a newline of its own nothing is added."""
        shown = self._block() if not self._begun else ""
        shown += self._spans(self._line)
        self._line = ""
        return shown

    def _whole_line(self) -> str:
        """The rest of a line whose end has come."""
        if not self._begun and _FENCE.match(self._line):
            self._fenced = not self._fenced
            self._line = ""
            return ""
        shown = self.end() + "\n"
        self._begun, self._style, self._indent, self._column = False, "", "", 0
        return shown

    def _part(self) -> str:
        """As much of an unfinished line as nothing that follows can change."""
        if self._fenced:
            return ""  # code is shown line by line: its end mark is a line, too
        if not self._begun and _BLOCK.match(self._line):
            return ""
        shown = self._block() if not self._begun else ""
        settled = self._settled()
        shown += self._spans(self._line[:settled])
        self._line = self._line[settled:]
        return shown

    def _settled(self) -> int:
        """How many characters can be shown: up to the last word's beginning, or to a mark left open."""
        end = max(self._line.rfind(" "), self._line.rfind("\t")) + 1
        position = 0
        while (mark := _OPENING.search(self._line, position)) is not None and mark.start() < end:
            span = _SPANS.match(self._line, mark.start())
            if span is None or span.end() == len(self._line):  # what follows may still change it
                return mark.start()
            position = span.end()
        return max(end, position)

    def _block(self) -> str:
        """Take the block's mark off the line; returns what stands for it."""
        self._begun = True
        if self._fenced:
            return ""
        for pattern, style in ((_HEADING, BOLD), (_QUOTE, DIM)):
            if found := pattern.match(self._line):
                self._line = self._line[found.end() :]
                self._style, mark = style, "" if pattern is _HEADING else "│ "
                self._indent = mark
                return self._put(mark, self._style)
        for pattern in (_BULLET, _NUMBER):
            if found := pattern.match(self._line):
                self._line = self._line[found.end() :]
                mark = f"{found[1]}{'•' if pattern is _BULLET else found[2]} "
                self._indent = " " * min(cell_len(mark), self._width // 2)
                return self._put(mark, "")
        return ""

    def _spans(self, text: str) -> str:
        """The text with its spans styled, and wrapped."""
        if self._fenced:
            return f"{DIM}{text}{RESET}" if text else ""
        shown, position = "", 0
        for span in _SPANS.finditer(text):
            shown += self._words(text[position : span.start()], self._style)
            kind = str(span.lastgroup)
            cut = 2 if kind == "bold" else 1
            shown += self._words(span[0][cut:-cut], self._style + _STYLE[kind])
            position = span.end()
        return shown + self._words(text[position:], self._style)

    def _words(self, text: str, style: str) -> str:
        return "".join(self._put(word, style) for word in re.findall(r"\s+|\S+", text))

    def _put(self, word: str, style: str) -> str:
        """One word, or the space between two, on this line or on a new one."""
        if not word:
            return ""
        length = cell_len(word)
        broken = ""
        if self._column + length > self._width and self._column > cell_len(self._indent):
            broken = "\n" + self._indent
            self._column = cell_len(self._indent)
            if word.isspace():
                return broken
        self._column += length
        return broken + (f"{style}{word}{RESET}" if style and not word.isspace() else word)
