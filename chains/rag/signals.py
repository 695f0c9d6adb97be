"""Plain signals of whether a sentence can answer.

They are: the kind of thing asked for is there, it says more than the question does, it is no dead end. Knows
words and patterns; knows no model. Tuned on one half of the questions over the PEPs, where they and the
neighbours' scores (see `rank`) raise the first sentence from 0.40 to 0.50 right and the best of three from
0.70 to 0.77.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chains.rag.passages import Candidate
from chains.words import content_words

_PERSON = re.compile(r"\b(?:who|whose|whom)\b", re.I)
_QUANTITY = re.compile(
    r"\b(?:when|how (?:many|much|long|often|large|big|old|far)|(?:what|which) (?:year|date|month|day|time|"
    r"version|release|number|size|percentage|python)|since when|until when)\b",
    re.I,
)
_FULL_NAME = re.compile(r"\b[A-Z][\w'-]+(?: [A-Z]\.)? [A-Z][\w'-]+")
_DIGIT = re.compile(r"\d")
_DEAD_END = re.compile(r"(?:[:?]|::)\s*$")
KIND, NEWS, DEAD_END = 0.75, 0.75, 0.7
"""Weights, in standard deviations of the ranking score."""
ENOUGH_NEWS = 4
"""Content words beyond the question's that a sentence needs for the full bonus."""


def expected(question: str) -> re.Pattern[str] | None:
    """Return what an answer's sentence should hold: a full name, a digit, or nothing in particular."""
    if _PERSON.search(question):
        return _FULL_NAME
    return _DIGIT if _QUANTITY.search(question) else None


def dead_end(text: str) -> bool:
    """Tell whether a sentence only leads to what follows, asks, or is a link's target or an address."""
    return bool(_DEAD_END.search(text)) or text.startswith(("_`", "`", ".. ")) or "@" in text


def signals(question: str, found: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return the weighted sum of the signals, one value a candidate."""
    kind = expected(question)
    asked = set(content_words(question))
    holds = np.asarray([float(bool(kind and kind.search(one.sentence.flat))) for one in found])
    news = [min(1.0, len(set(content_words(one.sentence.flat)) - asked) / ENOUGH_NEWS) for one in found]
    ends = np.asarray([float(dead_end(one.sentence.flat)) for one in found])
    total = KIND * (holds - holds.mean()) + NEWS * np.asarray(news) - DEAD_END * ends
    return np.asarray(total, dtype=np.float64)
