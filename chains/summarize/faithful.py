"""Whether a written sentence keeps to the numbers and names of its source, and what to do when it does not.

Knows words, numbers and names; knows no model. A sentence with a number or a name that its part does not hold
is replaced by the part's own sentence that shares most words with it, or dropped where none shares enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chains.sentences import Sentence
from chains.words import content_words, names, numbers

REPAIR_LEAST = 0.3
"""Share of a sentence's content words that its replacement must hold."""


def unsupported(sentence: str, text: str) -> set[str]:
    """Return the numbers and names of `sentence` that do not occur in `text`."""
    held = set(content_words(text))
    missing = {name for name in names(sentence) if not set(content_words(name)) <= held}
    return missing | (numbers(sentence) - numbers(text))


@dataclass(frozen=True, slots=True)
class Checked:
    """A sentence as it may be shown, the place of its part, its nearest words, whether it was repaired."""

    text: str
    part: int
    quote: str
    repaired: bool


def check(sentence: str, texts: Sequence[tuple[int, str, Sequence[Sentence]]]) -> Checked | None:
    """Check a written sentence against its parts, given as (place, text, sentences); None drops it."""
    asked = set(content_words(sentence))
    if not asked:
        return None
    ranked = [
        (len(asked & set(content_words(one.text))) / len(asked), place, text, one)
        for place, text, sentences in texts
        for one in sentences
        if one.kind in ("prose", "item")
    ]
    ranked.sort(key=lambda one: -one[0])
    if not ranked:
        return None
    for share, place, text, one in ranked[:8]:
        if share > 0 and not unsupported(sentence, text):
            return Checked(sentence, place, one.text, False)
    share, place, _, one = ranked[0]
    return Checked(one.flat, place, one.text, True) if share >= REPAIR_LEAST else None
