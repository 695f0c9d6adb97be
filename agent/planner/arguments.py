"""Rules that read the user's own words: the wish for a text's gist, a named file, a tool's arguments.

A 135M model that copies a program or a page of text drops brackets and words. What can be cut out of the
message is cut out here, and only the rest is left to the model under its grammar. These are rules in addition
to the router's scores: they decide what is done within a route, never the route.

    >>> plain_arguments("calculator", "How much is 15 percent of 300?")
    {'expression': '15 / 100 * 300'}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.planner.signals import python_in, signals
from agent.storage.notes import asked_to_remember

_SHORT = 200
"""Longest message, in characters, that only greets or only names a text."""
_SHOW = re.compile(
    r"\W*(?:(?:please|can you|could you|just|bitte)\s+)*"
    r"(?:what(?:'s|\s+is)\s+(?:in|inside)|was steht in|show|open|read|print|display|cat"
    r"|look\s+(?:in|into|at))\b"
    r"(?:\s+(?:me|the|this|my|file|text|contents?|of|in|der|datei))*(?:\s+\S+)?\W*",
    re.IGNORECASE,
)
_GIST = re.compile(
    r"\W*(?:what(?:'s|\s+is|\s+does)|tell me|explain|describe|worum geht es)\s*"
    r"(?:\b(?:this|it|that|the|file|text|document|about|in|to me)\b\s*)*(?:\S+\.\w+\s*)?"
    r"(?:\b(?:is|all|about|say|contain)\b\s*)*\W*",
    re.IGNORECASE,
)
_WRITE = re.compile(
    r"\W*(?:(?:please|can you|could you|now|bitte)\s+)*(?:write|make|create|generate|draft|compose|fix"
    r"|correct|improve|convert|format|continue|complete|finish|reply|respond|shorten|expand|turn|schreib)\w*\b",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"(?:(?:hi|hello|hey|hallo|hola|salut|bonjour|thanks?|thank you|danke|gracias|merci|thx|bye|goodbye"
    r"|ok|okay|good (?:morning|evening|night|day)|guten (?:morgen|abend|tag)|great|nice|cool|wow|well done"
    r"|sorry|there|so much|a lot|very much|again|you|everyone|yes|no|please|sure)\b[\s,.!?]*)+"
    r"|(?:who|what) are you|what(?:'s| is) your name|how are you(?: doing)?(?: today)?"
    r"|what can you do(?: for me)?|wer bist du|wie geht es dir|谢谢|你好",
    re.IGNORECASE,
)


def shows(message: str) -> bool:
    """Return whether the message wants to see a text and nothing more: "what is in README.md"."""
    return len(message) < _SHORT and _SHOW.fullmatch(message.strip()) is not None


def wants_summary(message: str) -> bool:
    """Return whether the message wants the gist of a text: "summarize this", "what is it about?"."""
    text = message.strip()
    if signals(text)["sum_words"]:
        return True
    return shows(text) or (len(text) < _SHORT and _GIST.fullmatch(text) is not None)


def wants_writing(message: str) -> bool:
    """Return whether the message asks for new words: a translation, a letter, a better wording."""
    return signals(message)["own_words"] or _WRITE.match(message) is not None


def is_talk(message: str) -> bool:
    """Return whether the message only greets, thanks or asks who is there; no document answers that."""
    return len(message) < _SHORT and _TALK.fullmatch(message.strip(" .!?")) is not None


_HEAD = 500
"""Characters of a message that may name a file. A pasted page names many files and asks for none of them."""
_NAME = re.compile(r"[^\s'\"`<>(),;]*[\w/][./][^\s'\"`<>(),;]*")


def named_file(message: str, folders: Sequence[Path] = ()) -> str | None:
    """Return the first name in the message that is the name of a file, as it stands there, or None.

    That the file exists tells "what is in README.md" from "what is a README.md for", which no wording does.
    Relative names are looked up in the first of `folders`, as `tools.read_file` does, or in the current
    folder.
    """
    base = folders[0].expanduser() if folders else Path()
    for found in _NAME.finditer(message[:_HEAD]):
        name = found[0].rstrip(".?!:")
        try:
            if name and (base / Path(name).expanduser()).is_file():
                return name
        except (OSError, RuntimeError, ValueError):  # The name is too long, or is ~nobody, or has a NUL.
            continue
    return None


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SUM = re.compile(r"[(\-]*\d[\d\s.,()+\-*/^%]*")
_OPERATOR = re.compile(r"(?<=[\d)%])\s*[+\-*/^%]")
_SIGNS = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (
            r"(?<=\d)\s*(?:%|percent|per cent|prozent|por ciento|pour cent)\s*(?:of|von|de)\s+(?=[\d(])",
            " / 100 * ",
        ),
        (r"(?<=[\d)])\s*(?:plus|and then plus)\s+(?=[\d(])", " + "),
        (r"(?<=[\d)])\s*(?:minus|less)\s+(?=[\d(])", " - "),
        (r"(?<=[\d)])\s*(?:times|multiplied by|mal|[x\u00d7])\s*(?=[\d(])", " * "),
        (r"(?<=[\d)])\s*(?:divided by|geteilt durch|\u00f7)\s*(?=[\d(])", " / "),
        (r"(?<=[\d)])\s*(?:to the power of|hoch)\s+(?=[\d(])", " ^ "),
    )
]
"""Words for signs between numbers. A percentage of something is a product; a comma may group thousands."""
_WORD = r"['\"]?\w[\w-]*['\"]?"
_CHOICE = re.compile(rf"{_WORD}(?:\s*,\s*{_WORD})*\s*,?\s+(?:or|oder|o|ou)\s+{_WORD}", re.IGNORECASE)
_COMMA_OR = re.compile(r"\s*,\s*(?:(?:or|oder|o|ou)\s+)?|\s+(?:or|oder|o|ou)\s+", re.IGNORECASE)
_WORDS_BEFORE = 8
"""Words that may stand before a program on its line."""
_LEAST_TEXT = 40
"""Least characters after a colon that count as a text to summarize."""


def plain_arguments(
    tool: str, message: str, *, attached: str = "", file: str | None = None
) -> dict[str, Any] | None:
    """Return the arguments of `tool` that stand in the message, None if they do not.

    `attached` is text that came with the message; `file` exists, and the message names it.
    """
    if tool in _TAKEN:
        text = _TAKEN[tool](message) or attached
        return {_NAMED.get(tool, "text"): text} if text else None
    if tool == "read_file":
        return {"path": file} if file else None
    if tool == "write_code":
        return {"request": f"{message}\n\n{attached}" if attached else message}
    if tool == "calculator":
        expression = sum_in(message)
        return {"expression": expression} if expression else None
    if tool == "classify":
        return _labels_and_text(message, attached)
    return None


def _code_after_a_word(message: str) -> str | None:
    """Return the program that begins within the first line: "run print(1)"."""
    starts = [word.end() for word in re.finditer(r"\w+:?\s+", message.split("\n", 1)[0])][:_WORDS_BEFORE]
    return next((code for start in starts if (code := python_in(message[start:])) is not None), None)


def sum_in(message: str) -> str | None:
    """Return the one sum of a message, in words or signs; None if the message has another number, too.

    >>> sum_in("What is 3 times 4?"), sum_in("What is 3 times 4 in 2026?")
    ('3 * 4', None)
    """
    text = message.casefold()
    for words, sign in _SIGNS:
        text = words.sub(sign, text)
    numbers = len(_NUMBER.findall(text))
    spans = [span.strip(" ,.=?") for span in _SUM.findall(text)]
    spans = [span for span in spans if len(_NUMBER.findall(span)) == numbers and _OPERATOR.search(span)]
    return spans[0] if len(spans) == 1 and "," not in spans[0] else None


def _labels_and_text(message: str, attached: str) -> dict[str, Any] | None:
    """Return the labels before the colon and the text after it: "… positive, negative or neutral: TEXT"."""
    head, _, text = (part.strip() for part in message.partition(":"))
    text = text or attached
    found = _CHOICE.search(head)
    if not text or found is None:
        return None
    labels = [label.strip(" '\"") for label in _COMMA_OR.split(found[0]) if label.strip(" '\"")]
    return {"text": text.strip("'\""), "labels": labels} if len(set(labels)) == len(labels) >= 2 else None


def _after_the_request(message: str) -> str | None:
    """Return what stands after the first empty line, or after the first colon."""
    for separator in (r"\n\s*\n", r":\s+"):
        parts = re.split(separator, message.strip(), maxsplit=1)
        if len(parts) == 2 and len(parts[1]) >= _LEAST_TEXT:
            return parts[1].strip()
    return None


_TAKEN: Mapping[str, Callable[[str], str | None]] = {
    "remember": asked_to_remember,
    "run_python": lambda message: python_in(message) or _code_after_a_word(message),
    "summarize": _after_the_request,
}
_NAMED: Mapping[str, str] = {"run_python": "code"}
