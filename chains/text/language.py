"""Tells English from other languages, by script and by the words that every sentence needs.

>>> is_english("The key is under the mat."), is_english("Der Schlüssel liegt unter der Matte.")
(True, False)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from chains.text.words import STOP_WORDS

_WORD = re.compile(r"[^\W\d_]+")
_MOST_CHARS = 20_000
# Function words of German, French, Spanish, Italian, Portuguese, Dutch, Polish, Swedish, Danish and Turkish,
# without those that are English words, too.
_OTHERS = frozenset(
    "der die das und ist ein eine einen dem den des nicht mit sich auf für von zu im wird sind bei oder auch "
    "als nach wie werden aus kann le la les des est et une dans pour que qui sur pas avec sont du au aux ce "
    "cette par el los las una y es por con para del se lo como más sin sus il di che è gli per non della "
    "sono con nel alla o os um uma não em do da na no com mais foi het een van op niet voor met zijn dat "
    "aan te ook bij w z na jest się nie do to od oraz dla och att det som på är för av inte og er til ikke "
    "af med ve bir bu için ile da de olarak".split()
) - (STOP_WORDS | {"die", "on", "man", "men", "met", "me", "dat", "te", "do", "to", "no", "o", "w", "z", "y"})


def is_english(text: str) -> bool:
    """Return whether a text is in English, or in no language, as tables and numbers are."""
    words = _WORD.findall(text[:_MOST_CHARS].lower())
    letters = sum(map(len, words))
    if not letters:
        return True
    latin = sum(letter < "\u0250" or "\u1e00" <= letter <= "\u1eff" for word in words for letter in word)
    if latin < 0.7 * letters:
        return False
    english = sum(word in STOP_WORDS for word in words)
    other = sum(word in _OTHERS for word in words)
    return not (other > english and other * 20 > len(words))


def share_of_english(texts: Iterable[str]) -> float:
    """Return which share of the characters of `texts` is in English texts; 1 if there are none."""
    total = english = 0
    for text in texts:
        size = min(len(text), _MOST_CHARS)
        total += size
        english += size * is_english(text)
    return english / total if total else 1.0
