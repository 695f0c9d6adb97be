"""Prepares texts and queries for FTS5, whose tokenizer knows only words between spaces.

The tokenizer (porter over unicode61) takes a run of Chinese, Japanese or Thai for one word, and the vowel
signs of Thai and of the Indic scripts for gaps. So a run of Chinese characters, kana or hangul becomes its
overlapping pairs, as Lucene's CJKAnalyzer has them, and a run of Thai, Lao, Burmese or Khmer its overlapping
triples. Arabic words lose their vowel marks, the article and the commonest endings (the light10 stemmer of
Larkey, Ballesteros and Connell 2002), and alef has one form. A text in ASCII stays as it is.

FTS5's own trigram tokenizer was the alternative. It cannot find a word of two characters, which most Chinese
words are, and it would cut English into trigrams as well.
"""

from __future__ import annotations

import re
import unicodedata

from chains.text.words import STOP_WORDS

FULL_TEXT_VERSION = 2
"""Raised when `full_text` changes. A store's full-text index is then made anew when it is opened."""

# Words of a query that are sent to the full-text index.
_MAX_WORDS = 64

# unicode61 takes vowel signs for gaps, but characters for private use (from U+E000) for letters.
_SIGNS: dict[int, int | str | None] = {
    code: 0xE000 + code - 0x0900
    for code in (*range(0x0900, 0x10A0), *range(0x1780, 0x1800))
    if unicodedata.category(chr(code)) in ("Mn", "Mc")
}
# Vowel points of Hebrew, vowel marks and the stretching stroke of Arabic.
_DROPPED = dict.fromkeys((*range(0x0591, 0x05BE), *range(0x064B, 0x0660), 0x0640, 0x0670), None)
# The forms of alef, the dotless yeh, and the teh marbuta that is often written as a heh.
_LETTERS = {0x0622: 0x0627, 0x0623: 0x0627, 0x0625: 0x0627, 0x0671: 0x0627, 0x0649: 0x064A, 0x0629: 0x0647}
_TABLE = _SIGNS | _DROPPED | _LETTERS

_PAIRS = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_TRIPLES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ue500-\ue79f\uee80-\ueeff"
_RUN = re.compile(f"([{_PAIRS}]+)|([{_TRIPLES}]+)")
_ARABIC_WORD = re.compile("[\u0621-\u064a]{4,}")
_ARTICLE = re.compile(
    "^(?:\u0648\u0627\u0644|\u0628\u0627\u0644|\u0643\u0627\u0644|\u0641\u0627\u0644|\u0627\u0644|\u0644\u0644)"
    "(?=..)"
)
_ENDING = re.compile(
    "(?<=..)(?:\u0647\u0627|\u0627\u0646|\u0627\u062a|\u0648\u0646|\u064a\u0646|\u064a\u0647|\u0647|\u064a)$"
)
_WORD = re.compile(f"(?:[^\\W{_PAIRS}{_TRIPLES}]|[\ue000-\ue4ff])+")


def full_text(text: str) -> str:
    """Return `text` as it is given to FTS5, in which every token is a word, a pair or a triple.

    >>> full_text("The ferry leaves at nine.")
    'The ferry leaves at nine.'
    """
    if text.isascii():
        return text
    text = _ARABIC_WORD.sub(_stem, text.translate(_TABLE))
    return _RUN.sub(lambda run: f" {' '.join(_grams(run)[0])} ", text)


def keyword_query(query: str) -> str:
    """Return an FTS5 query that any of the query's words matches, or "" if it has no words."""
    text = _ARABIC_WORD.sub(_stem, query.lower().translate(_TABLE))
    found: list[str] = []
    for run in _RUN.finditer(text):
        grams, size = _grams(run)
        # A run that is shorter than a gram is the beginning of one.
        found += [f'"{gram}"' for gram in grams if len(gram) == size] or [f'"{grams[0]}" *']
    words = _WORD.findall(_RUN.sub(" ", text))
    # Stop words say nothing about the subject. BM25 weighs them near 0 anyway; dropping them saves time.
    content = [word for word in words if word not in STOP_WORDS] or ([] if found else words)
    found = list(dict.fromkeys([*(f'"{word}"' for word in content), *found]))
    return " OR ".join(found[:_MAX_WORDS])


def _grams(run: re.Match[str]) -> tuple[list[str], int]:
    """Return the overlapping grams of a run, one for each of its characters, and their full size.

    The last ones are shorter, so that a query of one character finds the end of a run, too.
    """
    size = 2 if run.group(1) else 3
    text = run.group()
    return [text[i : i + size] for i in range(len(text))], size


def _stem(word: re.Match[str]) -> str:
    return _ENDING.sub("", _ARTICLE.sub("", word.group()))
