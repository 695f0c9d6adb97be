"""Answers that a capable model writes, each sentence released once its citation is checked.

Knows the prompt with numbered passages, citation marks such as [2], and the check; knows no store. A sentence
that its passage does not support is replaced by the passage's own nearest sentence or dropped, never shown as
sourced.
"""

# ruff: noqa: RUF001 - typographic quotes and full-width marks are what the patterns match.

import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.prompts import load_prompt
from chains.rag.check import nearest_sentence, supporting_span
from chains.rag.extract import Released
from chains.rag.passages import Passage
from chains.sentences import split_sentences

REFUSAL = "NOT IN DOCUMENTS"
_MARK = re.compile(r"\[\s*(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\s*\]")


class NotInDocuments(Exception):
    """The model says that the passages do not answer; control flow in this package, raised to no caller."""


def messages(question: str, passages: Sequence[Passage]) -> list[BaseMessage]:
    """Return the prompt: instructions, the numbered passages, the question."""
    shown = "\n\n".join(f"[{p.number}] {_label(p)}\n{p.text.strip()}" for p in passages)
    user = load_prompt("chains.rag", "question").substitute(documents=shown, question=question)
    return [
        SystemMessage(load_prompt("chains.rag", "system").substitute(refusal=REFUSAL)),
        HumanMessage(user),
    ]


def _label(passage: Passage) -> str:
    return " > ".join(part for part in (passage.title, passage.heading) if part)


def generate(
    question: str, passages: Sequence[Passage], llm: Runnable[LanguageModelInput, Any], config: RunnableConfig
) -> Iterator[Released]:
    """Stream the model's answer and yield each sentence that passes its check.

    Raises:
        NotInDocuments: the model replied that the passages do not answer.
    """
    number = 0
    used: set[tuple[str, int, str]] = set()
    for sentence in _sentences(_texts(llm, messages(question, passages), config)):
        if number == 0 and REFUSAL.casefold() in sentence.casefold():
            raise NotInDocuments
        released = check(sentence, passages, number + 1)
        if released is None:
            continue
        text, citation = released
        key = (citation.chunk_id, citation.start or 0, text.casefold())
        if key not in used:
            used.add(key)
            number += 1
            yield released


def _texts(
    llm: Runnable[LanguageModelInput, Any], prompt: list[BaseMessage], config: RunnableConfig
) -> Iterator[str]:
    for chunk in llm.stream(prompt, config):
        yield chunk if isinstance(chunk, str) else str(chunk.text)


def _sentences(pieces: Iterator[str]) -> Iterator[str]:
    """Yield whole sentences, marks that follow the full stop included, as soon as the next one begins."""
    held = ""
    for piece in pieces:
        held += piece
        if not re.search(r"[.!?。！？\n\]]", piece):
            continue
        whole, rest = _whole(held)
        yield from whole
        held = rest
    whole, rest = _whole(held + "\n\n.")
    yield from whole


def _whole(held: str) -> tuple[list[str], str]:
    groups: list[tuple[int, int]] = []
    for part in split_sentences(held):
        leading = re.match(rf"(?:{_MARK.pattern}[\s.]*)+", part.text)
        start = part.start
        if leading and groups:
            groups[-1] = (groups[-1][0], part.start + leading.end())
            start += leading.end()
        if start < part.end:
            groups.append((start, part.end))
    if not groups:
        return [], held
    return [held[first:last].strip() for first, last in groups[:-1]], held[groups[-1][0] :]


def check(sentence: str, passages: Sequence[Passage], number: int) -> Released | None:
    """Return what may be shown of a written `sentence`, and its citation; None where nothing may."""
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
