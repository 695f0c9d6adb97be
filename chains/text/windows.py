"""Windows of a long text: it is read whole, piece by piece, never cut.

Knows sentences and an upper estimate of tokens; knows no tokenizer, so it serves any model. Windows break
between sentences; a single sentence longer than a window breaks at a space.
"""

import re

from chains.text.sentences import split_sentences

_PIECES = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")


def estimate_tokens(text: str) -> int:
    """Return an upper estimate of the tokens of `text`.

    A token for every four letters of an ASCII word begun, for every digit, and for every other character. On
    the PEPs this lies 1.3 to 1.7 times above what the MiniLM and SmolLM2 tokenizers count, and never below.
    """
    return sum((len(piece) + 3) // 4 for piece in _PIECES.findall(text))


def windows(text: str, max_tokens: int) -> list[str]:
    """Cut `text` between sentences into pieces of at most `max_tokens` estimated tokens; all is kept."""
    if estimate_tokens(text) <= max_tokens:
        return [text.strip()]
    found: list[str] = []
    start = end = 0
    held = 0
    for sentence in split_sentences(text, max_chars=max(8, max_tokens)):
        size = estimate_tokens(text[end : sentence.end])
        if held and held + size > max_tokens:
            found.append(text[start : sentence.start].strip())
            start, held, size = sentence.start, 0, estimate_tokens(sentence.text)
        held += size
        end = sentence.end
    found.append(text[start:].strip())
    return [part for piece in found for part in _bounded(piece, max_tokens)]


def _bounded(piece: str, max_tokens: int) -> list[str]:
    """Cut a piece that is over the limit by characters: a rule of 10,000 dashes is no sentence."""
    if estimate_tokens(piece) <= max_tokens:
        return [piece] if piece else []
    return [piece[at : at + max_tokens] for at in range(0, len(piece), max_tokens)]
