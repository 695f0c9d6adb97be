"""Labels from a model's reply, for a model that cannot score.

Knows the prompt and how a reply is matched to a label; knows no probabilities beyond how sure the match is. A
reply that names no label, or several, gives no label and even scores; it is never guessed at.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from numpy.typing import NDArray

from chains.classify.labels import Label, label_key
from chains.prompts import fence, load_prompt
from chains.windows import windows

SURE = 0.9
"""Probability given to the label that a reply names; the rest is shared by the others."""
WINDOW_TOKENS = 1500


def reply_probabilities(
    llm: Runnable[LanguageModelInput, Any], labels: Sequence[Label], text: str, config: RunnableConfig
) -> NDArray[np.float64]:
    """Return probabilities [m] from one reply a window of `text`, averaged."""
    told = "\n".join(
        f"- {label.name}" + (f": {label.description}" if label.description else "") for label in labels
    )
    template = load_prompt("chains.classify", "reply")
    rows = []
    for piece in windows(text, WINDOW_TOKENS):
        reply = llm.invoke(
            [HumanMessage(template.substitute(labels=told, text=piece, fence=fence(piece)))], config
        )
        place = match(reply if isinstance(reply, str) else str(reply.text), labels)
        row = np.full(len(labels), 1 / len(labels))
        if place is not None:
            row = np.full(len(labels), (1 - SURE) / (len(labels) - 1))
            row[place] = SURE
        rows.append(row)
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def match(reply: str, labels: Sequence[Label]) -> int | None:
    """Return the place of the one label that `reply` names (the longest of nested ones), else None."""
    said = " ".join(reply.casefold().split()).strip("\"'`.*- ")
    names = [label_key(label.name) for label in labels]
    if said in names:
        return names.index(said)
    held = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    longest = [name for name in held if not any(name != other and name in other for other in held)]
    return names.index(longest[0]) if len(longest) == 1 else None
