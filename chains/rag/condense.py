"""Follow-up questions, made to stand on their own with the conversation before them.

A question is a follow-up if it begins like one ("and ...?"), contains a pronoun, or has fewer than two
content words. A model that writes well rewrites it; the rewrite is used only if each of its content words
comes from the question or the conversation. Otherwise the question is put after the last one that stands on
its own.

    >>> from langchain_core.messages import HumanMessage
    >>> condense("And who wrote it?", [HumanMessage("What is PEP 8?")], writer=None, config={})
    'What is PEP 8? And who wrote it?'
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
"""Messages of the conversation that are used, counted from its end."""


def read_input(given: str | Mapping[str, Any]) -> tuple[str, list[BaseMessage]]:
    """Return the question and the history of a chain's input.

    Raises:
        InputError: The input is neither a string nor a mapping with "question", or the history is not a list
            of messages.
        EmptyInputError: The question is empty.
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
    """Return True if `question` cannot be understood without the conversation before it."""
    if _OPENING.match(question.strip()):
        return True
    return bool(_POINTING & set(words(question))) or len(set(content_words(question))) < 2


def condense(
    question: str,
    history: Sequence[BaseMessage],
    writer: Runnable[LanguageModelInput, Any] | None,
    config: RunnableConfig,
) -> str:
    """Return `question` in a form that can be looked up without its conversation.

    Args:
        question: The last question.
        history: The conversation before it.
        writer: A model that rewrites well, or None to put two questions together.
        config: Passed on to the model.
    """
    recent = list(history)[-TURNS:]
    earlier = [str(message.text).strip() for message in recent if isinstance(message, HumanMessage)]
    if not earlier or not is_follow_up(question):
        return question
    if writer is not None:
        rewritten = _rewritten(question, recent, writer, config)
        if rewritten is not None:
            return rewritten
    return f"{_last_whole(earlier)} {question}"


def _last_whole(earlier: Sequence[str]) -> str:
    """Return the latest question that is not a follow-up itself."""
    return next((one for one in reversed(earlier) if not is_follow_up(one)), earlier[-1])


def _rewritten(
    question: str,
    history: Sequence[BaseMessage],
    writer: Runnable[LanguageModelInput, Any],
    config: RunnableConfig,
) -> str | None:
    """Return the model's rewrite, or None if it adds words of its own or is too long."""
    conversation = "\n".join(f"{message.type}: {' '.join(str(message.text).split())}" for message in history)
    prompt = load_prompt("chains.rag", "condense").substitute(history=conversation, question=question)
    reply = writer.invoke([HumanMessage(prompt)], config)
    text = " ".join((reply if isinstance(reply, str) else str(reply.text)).split()).strip('"“”')
    known = set(content_words(f"{conversation} {question}"))
    usable = set(content_words(text)) <= known and 0 < len(text) <= 4 * len(question) + 200
    return text if usable else None
