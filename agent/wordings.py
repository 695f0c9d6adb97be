"""What a message wants of a text, as plain wording tells: to see it, its gist, other words; or just to talk.

Rules beside the router's scores: they decide what is done within a route, never the route. Knows words in a
few languages; refuses to know routes and texts.
"""

from __future__ import annotations

import re

from agent.route_signals import signals

_SHORT = 200
"""Characters: what only greets, or only names a text, is no longer."""
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
    """Whether the message wants to see a text: "what is in README.md", and nothing more."""
    return len(message) < _SHORT and _SHOW.fullmatch(message.strip()) is not None


def wants_summary(message: str) -> bool:
    """Whether the message wants the gist of a text: "summarize this", "what is it about?"."""
    text = message.strip()
    if signals(text)["sum_words"]:
        return True
    return shows(text) or (len(text) < _SHORT and _GIST.fullmatch(text) is not None)


def wants_writing(message: str) -> bool:
    """Whether the message asks for words that stand in no text: a translation, a letter, a better wording."""
    return signals(message)["own_words"] or _WRITE.match(message) is not None


def is_talk(message: str) -> bool:
    """Whether the message only greets, thanks or asks who is there: no document answers that."""
    return len(message) < _SHORT and _TALK.fullmatch(message.strip(" .!?")) is not None
