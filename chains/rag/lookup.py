"""Look-ups: questions that one row of a table, or one line of a form, answers.

A table says little to an embedding, and the best passage of a list of names is about all of them, so such
questions fall below any threshold on cosines. Here the words decide: the row holds the names and numbers that
are asked about, and what is asked about them is a column of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chains.rag.evidence import CandidateSentence, Passage
from chains.text.rows import Cell, cells, is_rule, label
from chains.text.sentences import split_sentences
from chains.text.words import content_words, names, numbers

# Words of a question that ask and name nothing.
_ASKING = frozenset(
    content_words(
        "much many long old far often tell give show find please know called name "
        "wie viel viele hoch lange hat haben ist sind war der die das des dem den wann wo wer wessen welche "
        "welcher welches von vom und für im am bei in "
        "combien quand où qui quel quelle quels quelles est sont le la les de du des au aux pour "
        "cuánto cuántos cuánta cuántas cuándo dónde quién qué es son el los las del en por para "
        "quanto quanti quando dove chi che è il lo gli di hoeveel wanneer waar wie het een van "
        "ile kiedy gdzie kto jest są сколько когда где кто"
    )
)
_CAPITAL = re.compile(r"(?<=\s)[^\W\d_a-z]\w+")
# Questions whose column has another name: a place, a person, a time or a number is asked for.
_OPEN = re.compile(r"\b(?:where|who|whom|whose|when|how (?:much|many|old|long|far))\b", re.IGNORECASE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LEAST_PREFIX = 4


def find_rows(question: str, passages: Sequence[Passage]) -> list[CandidateSentence]:
    r"""Return the rows in `passages` that answer `question`, those that share most of its words.

    Of a row, the names and numbers in the question must be values, and what else it asks a column or a value;
    of a line of a form, the question must hold the label.

    >>> staff = "Name: Ada Quist; Extension: 311\\nName: Bo Lindt; Extension: 322"
    >>> from langchain_core.documents import Document
    >>> from chains.rag.evidence import to_passages
    >>> rows = find_rows("What is Bo Lindt's extension?", to_passages([Document(staff)]))
    >>> [row.sentence.text for row in rows]
    ['Name: Bo Lindt; Extension: 322']
    """
    asked = set(content_words(question)) - _ASKING
    capitals = {word for word in _CAPITAL.findall(question) if word[0].isupper()}
    keys = set(content_words(" ".join(names(question) | numbers(question) | capitals))) & asked
    best: list[CandidateSentence] = []
    most = 0
    for row, found in _rows(passages):
        shared = _shared_cjk(question, found) if _CJK.search(question) else 0
        if not shared:
            shared = _shared(question, asked, keys, found, row.passage)
        if shared > most:
            best, most = [], shared
        if shared and shared == most:
            best.append(row)
    return list({row.place: row for row in best}.values())


def _rows(passages: Sequence[Passage]) -> Iterator[tuple[CandidateSentence, list[Cell]]]:
    """Yield each row and line of a form with its cells; rows between pipes get the names of their header."""
    for passage in passages:
        header: list[str] = []
        before: list[Cell] = []
        for sentence in split_sentences(passage.text):
            found = cells(sentence.text)
            following = passage.text[sentence.end :].lstrip("\n").partition("\n")[0]
            if is_rule(sentence.text):
                header = [value for _, value in before]
            elif found and is_rule(following):
                before = found
            elif found:
                if header and not any(name for name, _ in found) and len(header) == len(found):
                    found = [(name, value) for name, (_, value) in zip(header, found, strict=True)]
                before = found
                yield CandidateSentence(passage, sentence), found
            elif sentence.kind == "item" and (pair := label(sentence.text)) is not None:
                yield CandidateSentence(passage, sentence), [pair]


def _shared(question: str, asked: set[str], keys: set[str], row: list[Cell], passage: Passage) -> int:
    """Return how many words a row shares with a question that it answers, and 0 if it does not."""
    columns = set(content_words(" ".join(name for name, _ in row)))
    values = set(content_words(" ".join(value for _, value in row)))
    if len(row) == 1:
        around = values | set(content_words(f"{passage.title} {passage.heading}"))
        named = bool(columns) and columns <= asked and all(_in(word, columns | around) for word in asked)
        return len(columns & asked) if named else 0
    matched = {word for word in asked if _in(word, columns | values)}
    if not any(_in(word, values) for word in matched):
        return 0
    if matched == asked:
        return len(matched)
    # German writes all nouns with a capital, so one of the keys may be what is asked for.
    if not keys & values or not all(word in values or _in(word, columns) for word in keys):
        return 0
    rest = asked - keys
    # A row that was cut off from its header may have a column for the one thing that is asked.
    unknown = len(rest) == 1 and (not columns or _OPEN.search(question))
    return len(matched) if rest & matched or unknown else 0


def _in(word: str, among: set[str]) -> bool:
    """Return whether a word is in a set, or begins one of its words or the other way round."""
    if word in among:
        return True
    if len(word) < _LEAST_PREFIX or word.isdigit():
        return False
    return any(
        len(other) >= _LEAST_PREFIX and (other.startswith(word) or word.startswith(other)) for other in among
    )


def _shared_cjk(question: str, row: list[Cell]) -> int:
    """Return how many names and values of two or more characters stand in a question without spaces."""
    values = sum(len(value) > 1 and value in question for _, value in row)
    columns = sum(len(name) > 1 and name in question for name, _ in row)
    return values + columns if values and (columns or not any(name for name, _ in row)) else 0
