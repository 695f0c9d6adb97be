"""Rows of tables within a text: which lines are one, and the names and values of their cells.

>>> cells("Item: Shelf; Price: 64"), cells("| Shelf | 64 |"), cells("Open until six; later on Fridays.")
([('Item', 'Shelf'), ('Price', '64')], [('', 'Shelf'), ('', '64')], [])
"""

from __future__ import annotations

import re

Cell = tuple[str, str]
"""The name of a column, or "", and the value below it."""

_NAMED = re.compile(r"([^:;|\n]{1,60}?):\s(\S.*)$", re.DOTALL)
_RULE = re.compile(r"[\s|:+=-]+$")
_LABEL = re.compile(r"([^\W\d_][^:.!?;|\n]{0,50}):[ \t]+(\S[^\n]*)$")
_MOST_WORDS = 7
"""Words in the name of a column. A clause before a colon is mostly longer."""


def cells(line: str) -> list[Cell]:
    """Return the cells of a line that is a row of a table, or [] for any other line.

    A row is written as `column: value; column: value`, as `value | value`, or between pipes.
    """
    line = line.strip()
    if "|" in line and not _RULE.match(line):
        if line.startswith("|") and line.endswith("|") and len(line) > 2:
            return [("", value.strip()) for value in line[1:-1].split("|")]
        if " | " in line:
            return [("", value.strip()) for value in line.split(" | ")]
    if "; " not in line:
        return []
    found: list[Cell] = []
    named = 0
    for part in line.split("; "):
        match = _NAMED.match(part)
        if match and len(match[1].split()) <= _MOST_WORDS:
            found.append((match[1].strip(), match[2].strip()))
            named += 1
        else:
            found.append(("", part.strip()))
    # Half the parts of `Total; Amount: 300` have a name, and so have those of some sentences.
    least = len(found) // 2 + 1 if line.endswith((".", "!", "?")) else (len(found) + 1) // 2
    return found if named >= least else []


def label(line: str) -> Cell | None:
    """Return the label and value of a line of a form, such as `Monthly rent: 715 euros`, or None."""
    match = _LABEL.match(line.strip())
    if match is None or len(match[1].split()) > _MOST_WORDS:
        return None
    return match[1].strip(), match[2].strip()


def is_rule(line: str) -> bool:
    """Return whether a line only parts the header of a table from its rows."""
    return "-" in line and "|" in line and bool(_RULE.match(line.strip()))
