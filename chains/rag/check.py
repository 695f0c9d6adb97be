"""Whether a written sentence says only what the quoted span says.

Knows words, numbers, names and negations; knows no model. The check is strict on what can be wrong without
being noticed (a number, a name, a "not") and lenient on wording. It reads no meaning: a sentence that
recombines the span's own words into something false passes, which is why the quoted span is always shown
beside it.
"""

# ruff: noqa: RUF001 - typographic quotes and full-width marks are what the patterns match.

import re
from collections.abc import Sequence
from itertools import pairwise

from chains.rag.passages import Passage
from chains.sentences import Sentence, split_sentences
from chains.words import content_words, names, numbers, words

MOST = 0.6
"""Share of the sentence's content words that must occur in the span."""

_NEGATIONS = frozenset("not no never none nor neither cannot without".split())
_NEGATED = re.compile(r"n['’]t$")


def supports(quote: str, sentence: str) -> bool:
    """Tell whether `quote` holds numbers, names, most words of `sentence`, and negates as it does."""
    if not numbers(sentence) <= numbers(quote):
        return False
    held = set(content_words(quote))
    if any(not set(content_words(name)) <= held for name in names(sentence)):
        return False
    asked = set(content_words(sentence))
    if not asked or len(asked & held) / len(asked) < MOST:
        return False
    return negates(quote) == negates(sentence)


def negates(text: str) -> bool:
    """Tell whether `text` holds a negation."""
    return any(word in _NEGATIONS or _NEGATED.search(word) for word in words(text))


def overlap(sentence: str, span: str) -> float:
    """Return the share, 0 to 1, of the sentence's content words that occur in `span`."""
    asked = set(content_words(sentence))
    return len(asked & set(content_words(span))) / len(asked) if asked else 0.0


def supporting_span(sentence: str, passage: Passage) -> tuple[int, int] | None:
    """Return the shortest span of one or two neighbouring sentences of `passage` that supports `sentence`."""
    parts = split_sentences(passage.text)
    pairs = [(first.start, second.end) for first, second in pairwise(parts)]
    spans = [(part.start, part.end) for part in parts] + pairs
    good = [span for span in spans if supports(passage.text[span[0] : span[1]], sentence)]
    return min(
        good,
        key=lambda span: (-overlap(sentence, passage.text[span[0] : span[1]]), span[1] - span[0]),
        default=None,
    )


def nearest_sentence(
    sentence: str, passages: Sequence[Passage], least: float = 0.3
) -> tuple[Passage, Sentence] | None:
    """Return the sentence of `passages` that shares most words with `sentence`, at least `least` of them."""
    found = [
        (overlap(sentence, part.text), passage, part)
        for passage in passages
        for part in split_sentences(passage.text)
        if part.kind != "heading"
    ]
    best = max(found, key=lambda one: one[0], default=None)
    return None if best is None or best[0] < least else (best[1], best[2])
