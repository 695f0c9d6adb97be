r"""Rich text (RTF 1.9): paragraphs, headings, tables, notes and the numbers of lists, without control words.

Hidden and deleted text, styles, fonts, pictures and the instructions of fields are left out; page headers
stand once at the start, footers once at the end. striprtf was tried: it gives one string without headings
and rows, keeps hidden and deleted text and halves of characters. pandoc needs a process of its own.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import Row, add_table

_TOKEN = re.compile(
    rb"\\(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,10})? ?|\\'(?P<hex>[0-9a-fA-F]{2})"
    rb"|\\(?P<symbol>[^a-zA-Z'])|(?P<open>\{)|(?P<close>\})|(?P<text>[^\\{}\r\n]+)|[\r\n]+|\\"
)
# Groups whose content is no text of the document.
_SKIPPED = frozenset(
    "fonttbl colortbl stylesheet listtable listoverridetable revtbl rsidtbl generator pict objdata fldinst "
    "themedata colorschememapping datastore latentstyles xmlnstbl wgrffmtfilter filetbl blipuid pntxta "
    "pntxtb pnseclvl datafield formfield bkmkstart bkmkend mmathPr atnid atnref atndate atrfstart atrfend "
    "sp sn panose fontemb falt nextfile template private background ftnsep ftnsepc ftncn aftnsep aftnsepc "
    "aftncn txe rxe xe tc tcn picprop nonshppict category keywords doccomm operator creatim revtim "
    "printim buptim comment manager company hlinkbase subject userprops propname staticval".split()
)
_CHARACTERS = {
    "tab": " ", "line": "\n", "emdash": "—", "endash": "\u2013", "lquote": "\u2018", "rquote": "\u2019",
    "ldblquote": "“", "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ", "qmspace": " ",
}  # fmt: skip
_SYMBOLS = {b"~": "\u00a0", b"_": "-", b"-": "", b"\\": "\\", b"{": "{", b"}": "}", b"\t": " "}
_NOTES = {"footnote": "Footnote", "annotation": "Comment"}
_RUNNING = frozenset({"header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf"})
_TARGETS = {
    "fonttbl": "font", "stylesheet": "style", "info": "info", "listtext": "label", "pntext": "label"
}  # fmt: skip
# Charsets of fonts (\fcharset) as code pages.
_CHARSETS = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 134: "gbk", 136: "big5", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250",
}  # fmt: skip
_HEADING_NAME = re.compile(r"(?:heading|überschrift|titre|título|titolo|kop) (\d)", re.IGNORECASE)
_MOST_NESTED = 4_000


@dataclass(slots=True)
class _State:
    """What holds within a group; a group inherits it and gives it back at its end."""

    target: str = "body"
    hidden: bool = False
    deleted: bool = False
    bold: bool = False
    starred: bool = False  # a destination that programs may not know follows
    skip_after: int = 1  # characters that replace one in Unicode
    font: int = -1
    outer: str = ""  # the target outside of a group that is written twice

    @property
    def shows(self) -> bool:
        return not (self.hidden or self.deleted)


@dataclass(slots=True)
class _Paragraph:
    r"""Properties that `\pard` sets back."""

    level: int | None = None
    in_table: bool = False


def parse_rtf(name: str, data: bytes) -> ParsedDocument:
    """Parse RTF: one block per heading; tables as one line per row, `column: value`."""
    start = data.find(b"{\\rtf")
    if start < 0:
        raise DamagedDocument(f"expected rich text (RTF) in {name!r}, found no mark of it; check its ending")
    builder = DocumentBuilder(name, "rtf")
    reader = _Rtf(builder)
    reader.read(data[start:])
    return reader.finish(stem(name))


def _clean(parts: list[str]) -> str:
    """Return collected text, each line without spaces at its ends; halves of a character are joined."""
    text = "".join(parts)
    parts.clear()
    if any("\ud800" <= char <= "\udfff" for char in text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()


class _Rtf:
    """One pass over the tokens. Groups are kept in a list, so that nesting costs no Python stack."""

    def __init__(self, builder: DocumentBuilder) -> None:
        self._builder = builder
        self._state = _State()
        self._groups: list[_State] = []
        self._codec = "cp1252"
        self._fonts: dict[int, str] = {}
        self._styles: dict[int, int] = {}
        self._number = 0  # of the font or style that is being defined
        self._bytes = bytearray()  # bytes of a character set, of which one character may need several
        self._left_to_skip = 0
        self._texts: dict[str, list[str]] = {"body": []}  # collected text by target
        self._label: list[str] = []
        self._paragraph = _Paragraph()
        self._notes: list[str] = []
        self._author = ""
        self._endnote = False
        self._table = _RtfTable()
        self._nested = _RtfTable()
        self._running: dict[str, list[str]] = {"header": [], "footer": []}
        self._paged = False
        self._changes = 0
        self._in_list = False

    def finish(self, title: str) -> ParsedDocument:
        """Return the document."""
        self._end_tables()
        self._builder.section("") if self._running["footer"] else None
        for text in self._running["footer"]:
            self._builder.add(text, "\n\n")
        if self._changes:
            self._builder.note(f"changes are pending ({self._changes} tracked); read as if all were accepted")
        metadata = {"author": _clean(self._texts.get("author", []))}
        return self._builder.document(_clean(self._texts.get("title", [])) or title, metadata)

    # Tokens.

    def read(self, data: bytes) -> None:
        """Read all tokens, up to the end of the outermost group."""
        at, size = 0, len(data)
        while at < size:
            match = _TOKEN.match(data, at)
            if match is None:
                at += 1
                continue
            at = match.end()
            if match["word"]:
                number = int(match["number"]) if match["number"] is not None else None
                if match["word"] == b"bin":
                    at += max(0, number or 0)
                self._flush()
                self._word(match["word"].decode(), number)
            elif match["hex"]:
                self._take(bytes([int(match["hex"], 16)]))
            elif match["text"]:
                self._take(match["text"])
            elif match["symbol"]:
                self._flush()
                self._symbol(match["symbol"])
            elif match["open"]:
                self._open()
            elif match["close"] and not self._close():
                break
        self._flush()
        self._end_paragraph()

    def _open(self) -> None:
        self._flush()
        if len(self._groups) > _MOST_NESTED:
            raise DamagedDocument(
                f"expected groups nested at most {_MOST_NESTED} deep, found more; save the document anew"
            )
        self._groups.append(self._state)
        self._state = replace(self._state, starred=False)

    def _close(self) -> bool:
        """End a group; return whether one was open."""
        self._flush()
        if not self._groups:
            return False
        ended, self._state = self._state.target, self._groups.pop()
        if ended != self._state.target:
            self._end_target(ended)
        elif ended == "style":
            self._end_style()
        return bool(self._groups)

    def _take(self, data: bytes) -> None:
        if self._left_to_skip:
            skipped = min(self._left_to_skip, len(data))
            self._left_to_skip -= skipped
            data = data[skipped:]
        self._bytes += data

    def _flush(self) -> None:
        """Decode the bytes that were taken; a control word counts as a character that is skipped."""
        self._left_to_skip = 0
        if not self._bytes:
            return
        codec = self._fonts.get(self._state.font, self._codec)
        text = self._bytes.decode(codec, "replace")
        self._bytes.clear()
        self._emit(text)

    def _emit(self, text: str) -> None:
        state = self._state
        if state.target == "skip" or not state.shows:
            return
        if state.target == "label":
            self._label.append(text)
            return
        self._texts.setdefault(state.target, []).append(text)
        if state.target == "body" and not state.bold and text.strip():
            self._table.plain = True

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._state.starred = True
        elif symbol in (b"\n", b"\r"):
            self._word("par", None)
        else:
            self._emit(_SYMBOLS.get(symbol, ""))

    # Control words.

    def _word(self, word: str, number: int | None) -> None:
        starred, self._state.starred = self._state.starred, False
        if self._destination(word, starred):
            return
        if word in _CHARACTERS:
            self._emit(_CHARACTERS[word])
        elif word == "u" and number is not None:
            self._emit(chr(number % 65_536))
            self._left_to_skip = self._state.skip_after
        elif not (self._look(word, number) or self._sets(word, number)) and self._state.target != "skip":
            self._structure(word, number)

    def _destination(self, word: str, starred: bool) -> bool:
        """Turn to the target that a word names, if it names one."""
        state = self._state
        if word in _TARGETS:
            state.target = _TARGETS[word]
        elif word == "upr":
            state.outer, state.target = state.target, "skip"
        elif word == "ud":
            state.target = state.outer or state.target
        elif state.target in ("skip", "font", "style"):
            return False
        elif word in _SKIPPED:
            state.target = "skip"
        elif word in _NOTES or word in _RUNNING or word == "atnauthor":
            state.target = word
            self._endnote = self._paged = False
            self._texts[word] = []
        elif word in ("title", "author") and state.target == "info":
            state.target = word
        elif starred and word != "shpinst":
            state.target = "skip"
        else:
            return False
        return True

    def _look(self, word: str, number: int | None) -> bool:
        """Take note of how the following text looks."""
        state, on = self._state, number != 0
        if word == "v":
            state.hidden = on
        elif word == "b":
            state.bold = on
        elif word == "plain":
            state.hidden = state.bold = state.deleted = False
        elif word == "deleted":
            self._changes += on and not state.deleted
            state.deleted = on
        elif word == "revised":
            self._changes += on
        elif word == "uc":
            state.skip_after = number or 0
        elif word == "f" and number is not None:
            state.font = self._number = number
        else:
            return False
        return True

    def _sets(self, word: str, number: int | None) -> bool:
        """Take note of character sets, and of the styles that are headings."""
        target = self._state.target
        if word == "ansicpg" and number:
            self._codec = _codec(f"cp{number}", self._codec)
        elif word in ("mac", "pc", "pca"):
            self._codec = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
        elif word == "fcharset" and target == "font":
            if number in _CHARSETS and number != 0:
                self._fonts[self._number] = _CHARSETS[number]
        elif target == "style":
            if word == "s" and number is not None:
                self._number = number
            elif word == "outlinelevel" and number is not None and number < 9:
                self._styles[self._number] = number + 1
        else:
            return False
        return True

    def _structure(self, word: str, number: int | None) -> None:
        paragraph = self._paragraph
        if self._state.target == "label":
            return
        if word in ("par", "sect", "page"):
            self._end_paragraph()
        elif word == "pard":
            self._paragraph = _Paragraph()
        elif word == "intbl":
            paragraph.in_table = True
        elif word == "s" and number in self._styles:
            paragraph.level = self._styles[number]
        elif word == "outlinelevel" and number is not None:
            paragraph.level = number + 1 if number < 9 else None
        elif word in ("chpgn", "ftnalt"):
            self._paged, self._endnote = self._paged or word == "chpgn", self._endnote or word == "ftnalt"
        else:
            self._in_row(word, self._nested if word.startswith("nest") else self._table)

    def _in_row(self, word: str, table: _RtfTable) -> None:
        if word in ("cell", "nestcell"):
            table.end_cell(" ".join(_clean(self._texts["body"]).split()), self._table.plain)
            self._label.clear()
            self._table.plain = False
        elif word in ("row", "nestrow"):
            table.end_row()
        else:
            self._table.define(word)

    # What ends.

    def _end_target(self, target: str) -> None:
        if target == "style":
            self._end_style()
        elif target in _NOTES:
            text = " ".join(_clean(self._texts[target]).split())
            label = "Endnote" if self._endnote else _NOTES[target]
            if target == "annotation" and self._author:
                label = f"Comment by {self._author}"
            self._notes += [f"{label}: {text}"] if text else []
        elif target == "atnauthor":
            self._author = _clean(self._texts[target])
        elif target in _RUNNING:
            text = _clean(self._texts[target])
            kept = self._running["header" if target.startswith("header") else "footer"]
            if text and text not in kept and not (self._paged and len(text.split()) <= 4):
                kept.append(text)
                if target.startswith("header"):
                    self._builder.add(text, "\n\n")

    def _end_style(self) -> None:
        name = _clean(self._texts.get("style", []))
        if match := _HEADING_NAME.match(name):
            self._styles[self._number] = int(match[1])

    def _end_paragraph(self) -> None:
        target = self._state.target
        if target != "body":
            self._texts.setdefault(target, []).append("\n")
            return
        if self._paragraph.in_table:
            self._texts["body"].append("\n")
            return
        self._end_tables()
        text, label = _clean(self._texts["body"]), " ".join("".join(self._label).split())
        self._label.clear()
        level = self._paragraph.level
        if self._in_list and not label:
            self._builder.add("\n", "")
        self._in_list = bool(label) and level is None
        if text and level is not None and len(text) <= 300:
            self._builder.heading(f"{label} {text}".strip(), level)
        elif text and label:
            self._builder.add(f"{label if label[-1].isalnum() or label[-1] in '.):' else '-'} {text}")
        else:
            self._builder.add(text, "\n\n")
        self._end_notes()

    def _end_notes(self) -> None:
        for note in self._notes:
            self._builder.add(note, "\n\n")
        self._notes.clear()

    def _end_tables(self) -> None:
        for table in (self._table, self._nested):
            if table.rows:
                add_table(self._builder, table.rows)
                table.rows = []
                self._end_notes()


class _RtfTable:
    """The rows of a table as they are read. `plain` says that the cell has text that is not bold."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.plain = False
        self._cells: list[tuple[str, bool]] = []
        self._above: dict[int, str] = {}
        self._defined: list[set[str]] = []
        self._next: set[str] = set()
        self._header = False

    def define(self, word: str) -> None:
        """Take note of how the next row is made up."""
        if word == "trowd":
            self._defined, self._next, self._header = [], set(), False
        elif word in ("clmgf", "clmrg", "clvmgf", "clvmrg"):
            self._next.add(word)
        elif word == "cellx":
            self._defined.append(self._next)
            self._next = set()
        elif word == "trhdr":
            self._header = True

    def end_cell(self, text: str, plain: bool) -> None:
        """Add a cell to the row."""
        self._cells.append((text, plain))

    def end_row(self) -> None:
        """Add the row; merged cells repeat their text."""
        cells, self._cells = self._cells, []
        texts: list[str] = []
        spans: dict[int, int] = {}
        for at, (text, _) in enumerate(cells):
            marks = self._defined[at] if at < len(self._defined) else set()
            if "clmrg" in marks and texts:
                first = max(spans, default=at - 1) if at - 1 in spans or spans else at - 1
                spans[first] = at - first + 1
                text = text or texts[-1]
            elif "clvmrg" in marks:
                text = text or self._above.get(at, "")
            texts.append(text)
        self._above = dict(enumerate(texts))
        if any(text for text, _ in cells):
            bold = not any(plain and text for text, plain in cells)
            number = self.rows[-1].number + 1 if self.rows else 1
            self.rows.append(Row(number, texts, spans, header=self._header, bold=bold))


def _codec(name: str, default: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return default
