"""Cited sentences that make up an answer: chosen from the passages, or written by a model and then checked.

`extract` yields the best candidate sentences, each cited by its own span. `generate` lets the model write,
and yields a sentence as soon as it is checked against the passages: a sentence that its passage does not
support is replaced by the nearest sentence of that passage, or dropped. It is never shown with a citation
that does not support it.
"""

# ruff: noqa: RUF001 - the patterns match typographic quotes and full-width marks.

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.prompts import load_prompt
from chains.rag.answer import Citation
from chains.rag.evidence import Passage, Ranker, candidate_sentences
from chains.text.sentences import Sentence, split_sentences
from chains.text.words import content_words, names, numbers, words

CitedSentence = tuple[str, Citation]
"""A sentence as it is shown, and its citation."""


def extract(
    question: str, passages: Sequence[Passage], ranker: Ranker, count: int
) -> Iterator[CitedSentence]:
    """Yield up to `count` sentences of the passages that answer best, each with the citation of its span."""
    ranked = ranker.rank(question, candidate_sentences(passages))
    seen: set[str] = set()
    for one in ranked:
        text = one.sentence.text.strip() if one.sentence.kind == "code" else one.sentence.flat
        text = f"{one.sentence.parent}: {text}" if one.sentence.parent else text
        if text.casefold() in seen:
            continue
        seen.add(text.casefold())
        yield text, one.passage.cite(len(seen), one.sentence.start, one.sentence.end)
        if len(seen) == count:
            return


# Writing.

REFUSAL = "NOT IN DOCUMENTS"
_MARK = re.compile(r"\[\s*(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\s*\]")


class NotInDocuments(Exception):
    """The model replied that the passages do not answer. Caught by `rag_chain`, so no caller sees it."""


def generate(
    question: str, passages: Sequence[Passage], llm: Runnable[LanguageModelInput, Any], config: RunnableConfig
) -> Iterator[CitedSentence]:
    """Stream the model's answer and yield each sentence that passes its check.

    Raises:
        NotInDocuments: The model replied that the passages do not answer.
    """
    number = 0
    used: set[tuple[str, int, str]] = set()
    for sentence in _sentences(_texts(llm, messages(question, passages), config)):
        if number == 0 and REFUSAL.casefold() in sentence.casefold():
            raise NotInDocuments
        checked = check(sentence, passages, number + 1)
        if checked is None:
            continue
        text, citation = checked
        key = (citation.chunk_id, citation.start or 0, text.casefold())
        if key not in used:
            used.add(key)
            number += 1
            yield checked


def messages(question: str, passages: Sequence[Passage]) -> list[BaseMessage]:
    """Return the prompt: instructions, the numbered passages, the question."""
    documents = "\n\n".join(f"[{p.number}] {_label(p)}\n{p.text.strip()}" for p in passages)
    user = load_prompt("chains.rag", "question").substitute(documents=documents, question=question)
    return [
        SystemMessage(load_prompt("chains.rag", "system").substitute(refusal=REFUSAL)),
        HumanMessage(user),
    ]


def _label(passage: Passage) -> str:
    return " > ".join(part for part in (passage.title, passage.heading) if part)


def _texts(
    llm: Runnable[LanguageModelInput, Any], prompt: list[BaseMessage], config: RunnableConfig
) -> Iterator[str]:
    for chunk in llm.stream(prompt, config):
        yield chunk if isinstance(chunk, str) else str(chunk.text)


def _sentences(pieces: Iterator[str]) -> Iterator[str]:
    """Yield each whole sentence, with the marks after its full stop, as soon as the next one begins."""
    pending = ""
    for piece in pieces:
        pending += piece
        if not re.search(r"[.!?。！？\n\]]", piece):
            continue
        whole, pending = _whole(pending)
        yield from whole
    whole, _ = _whole(pending + "\n\n.")
    yield from whole


def _whole(text: str) -> tuple[list[str], str]:
    """Return the sentences of `text` that are complete, and the rest."""
    groups: list[tuple[int, int]] = []
    for part in split_sentences(text):
        leading = re.match(rf"(?:{_MARK.pattern}[\s.]*)+", part.text)
        start = part.start
        if leading and groups:
            groups[-1] = (groups[-1][0], part.start + leading.end())
            start += leading.end()
        if start < part.end:
            groups.append((start, part.end))
    if not groups:
        return [], text
    return [text[first:last].strip() for first, last in groups[:-1]], text[groups[-1][0] :]


# Checking. Numbers, names and negations are checked strictly, because an error in them is easily overlooked;
# the wording is free. The check does not understand a sentence: one that recombines the span's own words into
# something false passes, so the quoted span is always shown with it.

MOST = 0.6
"""Share of the sentence's content words that must occur in the span."""

_NEGATIONS = frozenset("not no never none nor neither cannot without".split())
_NEGATED = re.compile(r"n['’]t$")


def check(sentence: str, passages: Sequence[Passage], number: int) -> CitedSentence | None:
    """Return what may be shown for a written `sentence`, with its citation, or None if nothing may."""
    cited = [int(one) for mark in _MARK.findall(sentence) for one in re.findall(r"\d+", mark)]
    text = " ".join(re.sub(rf"\s*{_MARK.pattern}", "", sentence).split())
    if sum(char.isalnum() for char in text) < 2:
        return None
    named = [passage for passage in passages if passage.number in cited]
    for passage in named or passages:
        span = supporting_span(text, passage)
        if span is not None:
            return text, passage.cite(number, *span)
    near = nearest_sentence(text, named)
    if near is None:
        return None
    passage, part = near
    return part.flat, passage.cite(number, part.start, part.end)


def supports(quote: str, sentence: str) -> bool:
    """Return True if `quote` has the numbers, the names and most words of `sentence`, and negates if it does.

    >>> supports("PEP 8 was written by Guido in 2001.", "Guido wrote PEP 8 in 2001.")
    True
    >>> supports("PEP 8 was written by Guido in 2001.", "Guido wrote PEP 8 in 2003.")
    False
    """
    if not numbers(sentence) <= numbers(quote):
        return False
    quoted = set(content_words(quote))
    if any(not set(content_words(name)) <= quoted for name in names(sentence)):
        return False
    claimed = set(content_words(sentence))
    if not claimed or len(claimed & quoted) / len(claimed) < MOST:
        return False
    return negates(quote) == negates(sentence)


def negates(text: str) -> bool:
    """Return True if `text` contains a negation."""
    return any(word in _NEGATIONS or _NEGATED.search(word) for word in words(text))


def overlap(sentence: str, span: str) -> float:
    """Return the share, 0 to 1, of the sentence's content words that occur in `span`."""
    claimed = set(content_words(sentence))
    return len(claimed & set(content_words(span))) / len(claimed) if claimed else 0.0


def supporting_span(sentence: str, passage: Passage) -> tuple[int, int] | None:
    """Return the span of one or two adjacent sentences that best supports `sentence`, or None."""
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
    """Return the sentence of `passages` that shares most words with `sentence`, `least` of them or more."""
    found = [
        (overlap(sentence, part.text), passage, part)
        for passage in passages
        for part in split_sentences(passage.text)
        if part.kind != "heading"
    ]
    best = max(found, key=lambda one: one[0], default=None)
    return None if best is None or best[0] < least else (best[1], best[2])
