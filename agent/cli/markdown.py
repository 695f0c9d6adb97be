r"""Markdown for a terminal, styled and wrapped word by word while it streams.

Marks of headings, bold, emphasis, code, lists and quotes are replaced by styles. A span that is not closed on
its own line is shown as it was written. Each word is written once and never redrawn, so a terminal that
scrolls, is narrow, or is copied from holds the text once. `rich.markdown` renders whole documents and would
have to redraw the answer for each word, so it is not used here.

    >>> stream = Markdown(width=80)
    >>> stream.feed("# Title\n\nSome **bo") + stream.feed("ld** words") + stream.end()
    '\x1b[1mTitle\x1b[0m\n\nSome \x1b[1mbold\x1b[0m words'
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
"""The beginning of a line that may still become a heading, an item, a quote or a fence, so it must wait."""
_SPANS = re.compile(
    r"(?P<code>`[^`\n]+`)|(?P<bold>\*\*(?=\S)[^\n]+?(?<=\S)\*\*)"
    r"|(?P<italic>(?<![^\s(\"'\[])\*(?=[^\s*])[^*\n]+?(?<=[^\s*])\*(?![^\s.,;:!?)\"'\]]))"
)
"""Underscores are not marks here, because models write them mostly in names such as `__init__`."""
_STYLE = {"code": CODE, "bold": BOLD, "italic": ITALIC}
_OPENING = re.compile(r"`|\*\*(?=\S|$)|(?<![^\s(\"'\[])\*(?=[^\s*]|$)")


class Markdown:
    """A stream of Markdown. `feed` and `end` return the text that can be shown now, with terminal codes."""

    def __init__(self, width: int) -> None:
        self._width = max(width - 1, _LEAST_WIDTH)
        self._line = ""  # source text that is not shown yet
        self._begun = False  # whether the beginning of this line has been shown
        self._style = ""  # style of the whole line
        self._indent = ""  # indentation of the lines that wrapping adds
        self._column = 0
        self._fenced = False

    def feed(self, text: str) -> str:
        """Take the next piece of the source and return what can be shown now."""
        shown = ""
        *lines, rest = text.split("\n")
        for line in lines:
            self._line += line
            shown += self._whole_line()
        self._line += rest
        return shown + self._part()

    def end(self) -> str:
        """Return what is left when the source has ended, without adding a newline."""
        shown = self._block() if not self._begun else ""
        shown += self._spans(self._line)
        self._line = ""
        return shown

    def _whole_line(self) -> str:
        """Return the rest of a line that is complete now."""
        if not self._begun and _FENCE.match(self._line):
            self._fenced = not self._fenced
            self._line = ""
            return ""
        shown = self.end() + "\n"
        self._begun, self._style, self._indent, self._column = False, "", "", 0
        return shown

    def _part(self) -> str:
        """Return the part of an unfinished line that no later text can change."""
        if self._fenced:
            return ""  # Code is shown line by line, because the line may be the fence that ends it.
        if not self._begun and _BLOCK.match(self._line):
            return ""
        shown = self._block() if not self._begun else ""
        settled = self._settled()
        shown += self._spans(self._line[:settled])
        self._line = self._line[settled:]
        return shown

    def _settled(self) -> int:
        """Return how many characters can be shown: up to the last word, or to a mark that is still open."""
        end = max(self._line.rfind(" "), self._line.rfind("\t")) + 1
        position = 0
        while (mark := _OPENING.search(self._line, position)) is not None and mark.start() < end:
            span = _SPANS.match(self._line, mark.start())
            if span is None or span.end() == len(self._line):  # The span may still grow.
                return mark.start()
            position = span.end()
        return max(end, position)

    def _block(self) -> str:
        """Remove the mark of a block from the line and return what is shown instead."""
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
        """Return the text with its spans styled and its lines wrapped."""
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
        """Return a word, or the space between two words, on this line or a new one."""
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
