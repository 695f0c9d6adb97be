"""reStructuredText, Org and LaTeX as a reader sees them, on the lines of their files.

The code is our own because every line of the text has to be a line of the file. docutils runs directives
(include, raw), so it is not used; pandoc and pylatexenc were not measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.data import with_lines
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.filelines import FileLines
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.tables import row_text

# Org --------------------------------------------------------------------------------------------------------

_ORG_HEADING = re.compile(r"(\*+)[ \t]+(?:(TODO|DONE|NEXT|WAITING|CANCELLED|CANCELED|COMMENT)[ \t]+)?(.*)$")
_ORG_TAGS = re.compile(r"[ \t]+:[\w@#%:]+:[ \t]*$|^\[#[A-Z]\][ \t]*")
_ORG_KEYWORD = re.compile(r"[ \t]*#\+(\w+):?[ \t]*(.*)$")
_ORG_LINK = re.compile(r"\[\[([^\]\n]+)\](?:\[([^\]\n]+)\])?\]")
_ORG_MARK = re.compile(r"(?<![\w/*=~+_])([*/=~_])(?=\S)([^\n]{1,300}?)(?<=\S)\1(?![\w*])")
_ORG_STRUCK = re.compile(r"(?<!\w)\+(?=\S)([^\n+]{1,200}?)(?<=\S)\+(?!\w)")
_ORG_PLAN = re.compile(r"\b(SCHEDULED|DEADLINE|CLOSED):[ \t]*[<\[]([^>\]]+)[>\]]")


def parse_org(name: str, data: bytes) -> ParsedDocument:
    """Parse Org: one block per heading; comments, drawers and keywords are left out."""
    reader = _OrgReader(decode(name, data).split("\n"))
    reader.read()
    title = reader.title or reader.page.top_heading or stem(name)
    return with_lines(reader.page.document(name, "org", title, reader.metadata))


class _OrgReader:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self.page = FileLines(len(lines))
        self.title = ""
        self.metadata: dict[str, str] = {}
        self._block = ""
        self._drawer = False
        self._commented = 0
        self._table: list[tuple[int, list[str]]] = []

    def read(self) -> None:
        for at, line in enumerate(self._lines):
            match = None if self._block else _ORG_HEADING.match(line)
            if match:
                self._heading(at, match)
            elif self._commented:
                continue
            elif line.lstrip().startswith("|") and not self._block:
                self._row(at, line)
                continue
            elif not self._special(at, line):
                self.page.put(at, line if self._block else _org_text(line))
            self._end_table()
        self._end_table()

    def _heading(self, at: int, match: re.Match[str]) -> None:
        level = len(match[1])
        self._drawer = False
        if self._commented and level > self._commented:
            return
        self._commented = level if match[2] == "COMMENT" else 0
        if self._commented:
            return
        text = _org_text(_ORG_TAGS.sub("", _ORG_TAGS.sub("", match[3]))).strip()
        if text:
            self.page.heading(at, at + 1, level, text)
            state = f"{match[2]} " if match[2] else ""
            self.page.put(at, f"{'#' * min(level, 6)} {state}{text}")

    def _special(self, at: int, line: str) -> bool:
        """Read a line of markup; return False if the line is text."""
        stripped = line.strip().lower()
        if self._block:
            if stripped.startswith("#+end_"):
                if self._block in {"src", "example"}:
                    self.page.put(at, "```")
                self._block = ""
                return True
            return self._block in {"comment", "export"}
        if self._drawer or re.fullmatch(r":[\w-]+:", stripped):
            self._drawer = stripped != ":end:"
            return True
        if match := _ORG_KEYWORD.match(line):
            self._keyword(at, match[1].lower(), match[2].strip())
            return True
        return stripped == "#" or stripped.startswith("# ") or bool(re.fullmatch(r"-{5,}", stripped))

    def _keyword(self, at: int, key: str, value: str) -> None:
        if key.startswith("begin_"):
            self._block = key[6:]
            if self._block in {"src", "example"}:
                self.page.put(at, f"```{value.split()[0] if value else ''}")
        elif key == "title":
            self.title = value
        elif key in {"author", "date", "description"}:
            self.metadata[key] = value.strip("<>[]")
        elif key == "caption":
            self.page.put(at, _org_text(value))

    def _row(self, at: int, line: str) -> None:
        if not re.fullmatch(r"\s*\|[-+|\s]+", line):
            self._table.append((at, [_org_text(cell).strip() for cell in line.strip().strip("|").split("|")]))
        elif self._table:
            self._table.append((at, []))

    def _end_table(self) -> None:
        table, self._table = self._table, []
        ruled = len(table) > 2 and not table[1][1]
        put_rows(self.page, [row for row in table if row[1]], named=ruled)


def _org_text(line: str) -> str:
    line = _ORG_LINK.sub(lambda match: match[2] or match[1], line)
    line = _ORG_PLAN.sub(lambda match: f"{match[1].capitalize()}: {match[2]}", line)
    line = re.sub(r"<(\d{4}-\d{2}-\d{2}[^>\n]*)>", r"\1", line)
    line = re.sub(r"\[fn:[\w-]*(?::([^\]\n]*))?\]", lambda match: f" ({match[1]})" if match[1] else "", line)
    return _ORG_MARK.sub(r"\2", _ORG_STRUCK.sub("", line))


def put_rows(page: FileLines, rows: Sequence[tuple[int, list[str]]], *, named: bool) -> None:
    """Write the rows of a table on their lines; with `named`, the first row names the columns."""
    names = rows[0][1] if named and len(rows) > 1 else []
    for at, cells in rows[1:] if names else rows:
        page.put(at, row_text(names, cells))


# LaTeX ------------------------------------------------------------------------------------------------------

_TEX_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_TEX_SECTION = re.compile(
    r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?(?:\[[^\]]*\])?(?=\{)"
)
_TEX_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*$")
_TEX_BEGIN = re.compile(r"\\begin\{([\w*]+)\}")
_TEX_END = re.compile(r"\\end\{([\w*]+)\}")
_TEX_VERBATIM = frozenset({"verbatim", "lstlisting", "minted", "Verbatim", "alltt"})
_TEX_TABLES = frozenset({"tabular", "tabular*", "tabularx", "longtable", "tabulary", "supertabular", "array"})
_TEX_DROPPED = re.compile(
    r"\\(?:label|ref|eqref|pageref|autoref|cref|Cref|cite[a-z]*|includegraphics|bibliography|bibliographystyle|vspace|"
    r"hspace|input|include|index|pagestyle|thispagestyle|setlength|addtolength|newcommand|renewcommand|usepackage|"
    r"documentclass|hypersetup|graphicspath|setcounter|addcontentsline|definecolor|newtheorem|bibitem)"
    r"\*?(?:\[[^\]]*\])*(?:\{[^{}]*\})*"
)
_TEX_RULES = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|cline\{[^}]*\}|cmidrule(?:\([^)]*\))?\{[^}]*\}|centering|noindent|maketitle|"
    r"tableofcontents|newpage|clearpage|pagebreak|linebreak|small|footnotesize|large|Large|huge|bfseries|itshape|"
    r"appendix|par|medskip|bigskip|smallskip|frontmatter|mainmatter|backmatter|raggedright|normalsize)(?![a-zA-Z])"
)
_TEX_TWO = re.compile(r"\\(?:href|textcolor|colorbox)\{[^{}]*\}\{([^{}]*)\}")
_TEX_SPAN = re.compile(r"\\multi(?:column|row)\{[^{}]*\}\{[^{}]*\}\{([^{}]*)\}")
_TEX_NOTE = re.compile(r"\\footnote\{([^{}]*)\}")
_TEX_ONE = re.compile(r"\\[a-zA-Z]+\*?(?:\[[^\]]*\])?\{([^{}]*)\}")
_TEX_ACCENT = re.compile(
    r"\\(?:(?P<sign>[`'^\"~=.])\s*(?:\{\\?([a-zA-Z])\}|\\?([a-zA-Z]))|(?P<letter>[uvHcdbr])(?:\{\\?([a-zA-Z])\}|\s+([a-zA-Z])\b))"
)
_TEX_ACCENTS = dict(
    zip(
        "`'^\"~=.uvHcdbr",
        "\u0300\u0301\u0302\u0308\u0303\u0304\u0307\u0306\u030c\u030b\u0327\u0323\u0331\u030a",
        strict=True,
    )
)
_TEX_LETTERS = dict(
    pair.split("=")
    for pair in (
        "ss=\xdf ae=\xe6 AE=\xc6 o=\xf8 O=\xd8 aa=\xe5 AA=\xc5 l=\u0142 L=\u0141 oe=\u0153 OE=\u0152 "
        "i=\u0131 euro=\u20ac pounds=\xa3 S=\xa7 ldots=\u2026 dots=\u2026 textendash=\u2013 "
        "textemdash=\u2014 LaTeX=LaTeX TeX=TeX copyright=\xa9 degree=\xb0 textdegree=\xb0 textbackslash=/"
    ).split()
)
_TEX_LETTER = re.compile(
    rf"\\({'|'.join(sorted(_TEX_LETTERS, key=len, reverse=True))})(?![a-zA-Z])(?:\{{\}}|[ \t])?"
)


def parse_tex(name: str, data: bytes) -> ParsedDocument:
    """Parse LaTeX: one block per section; comments, the preamble and commands are left out."""
    text = decode(name, data)
    reader = _TexReader(text.split("\n"))
    reader.read()
    facts = {key: _tex_fact(text, key) for key in ("title", "author", "date")}
    title = facts.pop("title") or stem(name)
    return with_lines(reader.page.document(name, "tex", title, facts))


def _tex_fact(text: str, key: str) -> str:
    match = re.search(
        rf"^[^%\n]*\\{key}(?:\[[^\]]*\])?\{{((?:[^{{}}]|\{{[^{{}}]*\}}){{0,500}})\}}", text, re.MULTILINE
    )
    return " ".join(tex_text(match[1].replace("\\\\", " ")).split()) if match else ""


class _TexReader:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self.page = FileLines(len(lines))
        self._verbatim = ""
        self._comment = 0
        self._rows: list[tuple[int, list[str]]] = []
        self._tables = 0
        self._lists: list[int] = []

    def read(self) -> None:
        body = next((at for at, line in enumerate(self._lines) if "\\begin{document}" in line), -1)
        for at, line in enumerate(self._lines):
            if at <= body:
                continue
            if "\\end{document}" in line:
                break
            if self._verbatim:
                self._literal(at, line)
            else:
                self._line(at, _TEX_COMMENT.sub(r"\1", line))
        self._end_table()

    def _literal(self, at: int, line: str) -> None:
        if f"\\end{{{self._verbatim}}}" in line:
            if self._verbatim != "comment":
                self.page.put(at, "```")
            self._verbatim = ""
        elif self._verbatim != "comment":
            self.page.put(at, line)

    def _line(self, at: int, line: str) -> None:
        for name in _TEX_BEGIN.findall(line):
            self._begin(at, name)
        if self._verbatim:
            return
        closed = next((match for match in _TEX_END.finditer(line) if match[1] in _TEX_TABLES), None)
        if self._tables and closed is not None:
            rest, line = line[closed.end() :], line[: closed.start()]
            if line.strip():
                self._line(at, line)
            self._end(closed[1])
            line = rest
        ends = _TEX_END.findall(line)
        line = re.sub(r"\\begin\{[\w*]+\}(?:\[[^\]]*\]|\{[^{}]*\})*", "", line)
        line = _TEX_END.sub("", line)
        if match := _TEX_SECTION.search(line):
            line = self._section(at, line, match)
        if self._tables:
            self._row(at, line)
        elif "\\item" in line:
            self._item(at, line)
        elif text := tex_text(line).strip():
            self.page.put(at, text)
        for name in ends:
            self._end(name)

    def _begin(self, at: int, name: str) -> None:
        if name in _TEX_VERBATIM or name == "comment":
            self._verbatim = name
            if name != "comment":
                self.page.put(at, "```")
        elif name in _TEX_TABLES:
            self._tables += 1
        elif name in {"itemize", "enumerate", "description"}:
            self._lists.append(0 if name == "enumerate" else -1)

    def _end(self, name: str) -> None:
        if name in _TEX_TABLES and self._tables:
            self._tables -= 1
            if not self._tables:
                self._end_table()
        elif name in {"itemize", "enumerate", "description"} and self._lists:
            self._lists.pop()

    def _section(self, at: int, line: str, match: re.Match[str]) -> str:
        """Write a heading; return what stands behind it on its line."""
        depth = 0
        end = len(line)
        for position in range(match.end(), len(line)):
            depth += (line[position] == "{") - (line[position] == "}")
            if depth == 0:
                end = position
                break
        level = _TEX_LEVELS[match[1]]
        text = " ".join(tex_text(line[match.end() + 1 : end]).split())
        if text:
            self.page.heading(at, at + 1, level, text)
            self.page.put(at, f"{'#' * level} {text}")
        return line[: match.start()] + line[end + 1 :]

    def _item(self, at: int, line: str) -> None:
        before, *items = re.split(r"\\item(?![a-zA-Z])", line)
        if before.strip():
            self.page.put(at, tex_text(before).strip())
        for item in items:
            label = re.match(r"\s*\[([^\]]*)\]", item)
            if self._lists and self._lists[-1] >= 0:
                self._lists[-1] += 1
                mark = f"{self._lists[-1]}. "
            else:
                mark = "- "
            if label:
                item = f"{label[1].rstrip(':')}: {item[label.end() :].strip()}"
            indent = "  " * max(len(self._lists) - 1, 0)
            self.page.put(at, f"{indent}{mark}{tex_text(item).strip()}")

    def _row(self, at: int, line: str) -> None:
        for piece in re.split(r"\\\\(?:\[[^\]]*\])?", line):
            piece = _TEX_RULES.sub("", piece)
            if not piece.strip():
                continue
            cells = [
                " ".join(tex_text(_TEX_SPAN.sub(r"\1", cell)).split())
                for cell in re.split(r"(?<!\\)&", piece)
            ]
            if self._rows and self._rows[-1][0] != at and not self._ended:
                last = self._rows[-1][1]
                last[-1] = f"{last[-1]} {cells[0]}".strip()
                last.extend(cells[1:])
            else:
                self._rows.append((at, cells))
        self._ended = bool(
            re.search(r"\\\\(?:\[[^\]]*\])?\s*(?:\\[a-z]+(?:\{[^}]*\})?\s*)*$", line)
        ) or not line.strip(" \t")

    _ended = True

    def _end_table(self) -> None:
        rows, self._rows = self._rows, []
        put_rows(self.page, rows, named=len(rows) > 1 and len(rows[0][1]) > 1)
        self._ended = True


def tex_text(line: str) -> str:
    r"""Return a piece of LaTeX without its commands.

    >>> tex_text(r"The \emph{caf\'e} weighs 4.7~kg, i.e.\ 5\,\%.")
    'The caf\xe9 weighs 4.7 kg, i.e. 5 %.'
    """
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        formulas.append(match[0])
        return f"\x00{len(formulas) - 1}\x00"

    line = re.sub(r"(?<!\\)\$[^$\n]{1,500}(?<!\\)\$", keep, line)
    line = _TEX_ACCENT.sub(_accented, line)
    line = _TEX_LETTER.sub(lambda match: _TEX_LETTERS[match[1]], line)
    line = _TEX_RULES.sub("", _TEX_DROPPED.sub("", line))
    for _ in range(8):
        shorter = _TEX_NOTE.sub(r" (\1)", _TEX_TWO.sub(r"\1", _TEX_SPAN.sub(r"\1", line)))
        shorter = re.sub(r"\{([^{}]*)\}", r"\1", _TEX_ONE.sub(r"\1", shorter))
        if shorter == line:
            break
        line = shorter
    line = re.sub(r"\\[,;:! ]|\\\\(?:\[[^\]]*\])?|(?<!\\)~", " ", line)
    line = re.sub(r"\\([%&$#_{}])", r"\1", line)
    line = (
        line.replace("---", "\u2014").replace("--", "\u2013").replace("``", "\u201c").replace("''", "\u201d")
    )
    line = re.sub(r"\\[a-zA-Z]+\*?[ \t]?", "", line)
    line = re.sub(r"[ \t]+", " ", line)
    return re.sub("\x00(\\d+)\x00", lambda match: formulas[int(match[1])], line)


def _accented(match: re.Match[str]) -> str:
    import unicodedata

    letter = next(one for one in (match[2], match[3], match[5], match[6]) if one)
    return unicodedata.normalize("NFC", letter + _TEX_ACCENTS[match["sign"] or match["letter"]])
