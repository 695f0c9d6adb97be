"""Words, stems, numbers and names of a text, for checks that need no model.

Stems and stop words are English. Words of other scripts are kept whole, except that a run of Chinese,
Japanese or Korean characters becomes its overlapping pairs.

    >>> content_words("The parsers were failing")
    ['parser', 'fail']
    >>> sorted(names("In 2019 Guido van Rossum left the PEP process.")), sorted(numbers("1,024 of 3.5"))
    (['Guido', 'PEP', 'Rossum'], ['1024', '3.5'])
"""

# ruff: noqa: RUF001 - the patterns match typographic quotes and full-width marks.

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?", re.UNICODE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_NUMBER = re.compile(r"(?<![^\W_])\d+(?:[.,:]\d+)*")
_NAME = re.compile(r"(?<![\w.])(?:[A-Z][\w’'-]*[\w]|[A-Z]{2,}|[a-z]+[A-Z]\w*|\w+_\w+)")
STOP_WORDS = frozenset(
    "a about after all also am an and any are as at be because been before being between both but by can "
    "could did do does doing down during each few for from further had has have having he her here hers "
    "him his how i if in into is it its itself just let may me might more most must my no nor not now of "
    "off on once only or other our out over own per same shall she should so some such than that the "
    "their them then there these they this those through to too under until up upon us very was we were "
    "what when where which while who whom whose why will with within without would yes you your".split()
)
"""English words that say nothing about the subject of a text."""


def stem(word: str) -> str:
    """Return a light stem of an English word, without plural, -ed, -ing, -ly and a final e.

    The method is the first steps of Porter's algorithm (1980), without its measure table.
    """
    # snowballstemmer 3.1 is not worth a dependency: over 60 questions about the PEPs both find the answer in
    # the first sentence for 28, and in the best three for 42 (benchmarks/rag_quality.py).
    word = word.lower()
    for tail, keep in (
        ("ies", "y"),
        ("sses", "ss"),
        ("ing", ""),
        ("edly", ""),
        ("ed", ""),
        ("ly", ""),
        ("es", ""),
        ("s", ""),
    ):
        if word.endswith(tail) and len(word) - len(tail) >= 3 and not word.endswith("ss"):
            word = word[: len(word) - len(tail)] + keep
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def words(text: str) -> list[str]:
    """Return the words of `text` in lower case, in order; a CJK run becomes its pairs of characters."""
    result: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group().lower()
        if _CJK.search(word):
            result.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            result.append(word)
    return result


def content_words(text: str) -> list[str]:
    """Return the stems of the words of `text`, without stop words."""
    return [
        stem(word) for word in words(text) if word not in STOP_WORDS and (len(word) > 1 or not word.isascii())
    ]


def numbers(text: str) -> set[str]:
    """Return the numbers in `text`, without thousands separators ("1,024" becomes "1024")."""
    return {re.sub(r"(?<=\d),(?=\d{3}\b)", "", found) for found in _NUMBER.findall(text)}


def names(text: str) -> set[str]:
    """Return the words of `text` that look like names: capitalized, in capitals, or identifiers.

    The first word of a sentence counts only if it has a capital after its first letter, because any word is
    capitalized there.
    """
    found: set[str] = set()
    for match in _NAME.finditer(text):
        name = match.group()
        before = text[: match.start()].rstrip(" \t\n\"'“‘([*_`-")
        opens = not before or before[-1] in ".!?:;…。•"
        plain = name[1:].islower() or len(name) == 1
        if not (opens and plain) and name.lower() not in STOP_WORDS:
            found.add(name)
    return found


def idf(texts: Iterable[str]) -> dict[str, float]:
    """Return the inverse document frequency of each content word: log((n + 1) / (df + 0.5)).

    This is Robertson's formula with n + 1 for n, which keeps it above zero.
    """
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        total += 1
        counts.update(set(content_words(text)))
    return {word: math.log((total + 1) / (count + 0.5)) for word, count in counts.items()}


def coverage(question: Sequence[str], text: str, weights: dict[str, float]) -> float:
    """Return the share, 0 to 1, of the words of `question` that occur in `text`, weighted by idf.

    Args:
        question: Content words.
        text: Any text.
        weights: The idf of each word (see `idf`). A word without one weighs as much as the rarest word.
    """
    rarest = max(weights.values(), default=1.0)
    present = set(content_words(text))
    total = sum(weights.get(word, rarest) for word in set(question))
    return sum(weights.get(word, rarest) for word in set(question) & present) / total if total else 0.0
