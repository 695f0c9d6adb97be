"""A follow-up question made whole with the conversation before it.

Knows what a follow-up looks like (pronouns, "and …?", a few words) and when a rewritten question may be
trusted; knows no documents. A model that writes rewrites it; its rewrite is taken only if every content word
of it comes from the question or the conversation. Otherwise the question is put after the last one that it
follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig

from chains.errors import InputError, excerpt, require_text
from chains.prompts import load_prompt
from chains.text.words import content_words, words

_POINTING = frozenset(
    "it its it's they them their theirs he him his she her hers this that these those there then one ones "
    "same former latter both such".split()
)
_OPENING = re.compile(
    r"^(?:and|but|or|so|also|then|what about|how about|why\b.{0,8}\?|and why|since when)\b", re.I
)
TURNS = 6
"""How many messages of the conversation are looked at, counted from its end."""


def read_input(given: str | Mapping[str, Any]) -> tuple[str, list[BaseMessage]]:
    """Return the question and the history of a chain's input.

    Raises:
        InputError: it is neither a string nor a mapping with "question", or the history holds no messages.
        EmptyInputError: the question is empty.
    """
    if isinstance(given, Mapping):
        if "question" not in given:
            raise InputError(
                f"expected a question, or {{question, history}}, found keys {sorted(given)!r}: add 'question'"
            )
        return require_text("a question", given["question"]).strip(), _messages(given.get("history"))
    return require_text("a question", given).strip(), []


def _messages(history: object) -> list[BaseMessage]:
    if history is None:
        return []
    found = excerpt(history)
    try:
        if isinstance(history, Sequence) and not isinstance(history, str | bytes):
            return convert_to_messages(history)
    except (KeyError, NotImplementedError, TypeError, ValueError) as error:
        found = str(error)
    raise InputError(f"expected history to be a list of messages, found {found}: pass [('human', 'text'), …]")


def is_follow_up(question: str) -> bool:
    """Tell whether `question` leans on what was said before it."""
    if _OPENING.match(question.strip()):
        return True
    found = words(question)
    return bool(_POINTING & set(found)) or len(set(content_words(question))) < 2


def condense(
    question: str,
    history: Sequence[BaseMessage],
    writer: Runnable[LanguageModelInput, Any] | None,
    config: RunnableConfig,
) -> str:
    """Return `question` as it stands on its own.

    Args:
        question: The last question.
        history: The conversation before it.
        writer: A model that rewrites well, or None to join without one.
        config: Passed on to the model.
    """
    recent = list(history)[-TURNS:]
    asked = [str(message.text).strip() for message in recent if isinstance(message, HumanMessage)]
    if not asked or not is_follow_up(question):
        return question
    if writer is not None:
        rewritten = _rewritten(question, recent, writer, config)
        if rewritten is not None:
            return rewritten
    return f"{_last_whole(asked)} {question}"


def _last_whole(asked: Sequence[str]) -> str:
    """The latest question that stands on its own, for a chain of follow-ups leans on it."""
    return next((one for one in reversed(asked) if not is_follow_up(one)), asked[-1])


def _rewritten(
    question: str,
    history: Sequence[BaseMessage],
    writer: Runnable[LanguageModelInput, Any],
    config: RunnableConfig,
) -> str | None:
    told = "\n".join(f"{message.type}: {' '.join(str(message.text).split())}" for message in history)
    prompt = load_prompt("chains.rag", "condense").substitute(history=told, question=question)
    reply = writer.invoke([HumanMessage(prompt)], config)
    text = " ".join((reply if isinstance(reply, str) else str(reply.text)).split()).strip('"“”')
    known = set(content_words(f"{told} {question}"))
    fair = set(content_words(text)) <= known and 0 < len(text) <= 4 * len(question) + 200
    return text if fair else None
