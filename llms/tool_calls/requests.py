"""Messages that ask for several things at once: which parts, and which tool each part wants.

Knows sentences' joints and the scores of tools; refuses to know grammars and prompts' formats. A small model
that has written one call does not say by itself whether another is wanted. Parts are asked one by one
instead, with the very decision that a message of its own gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llms.tool_calls.choice import Tool, tool_scores

if TYPE_CHECKING:
    from llms.engine.shared import Runtime

MARGIN_NATS = 1.0
"""How much likelier than none a call must be for each part. Of 44 messages, tuning half: 7 of 10 that ask for
two things got both calls; none of 10 that only look like it, nor any of 44 others, got a second. On the other
half: 6 of 12 got both, and 2 of 12 that only look like it got a second."""

MOST_JOINTS = 3
"""Joints that are tried: each costs two decisions."""

_JOINT = re.compile(
    r"(?:[.;?!,]\s*)?\b(?:and then|and also|and|then|also)\b\s+(?:also\s+|then\s+)?|[.;?!]\s+(?=\w)", re.I
)
_EDGES = " \t\n,;."


def requests(runtime: Runtime, question: str, tools: Sequence[Tool]) -> list[tuple[Tool, str]]:
    """Return each part of a message with the tool it wants; [] where it does not ask for several tools.

    Args:
        runtime: The model.
        question: The user's message.
        tools: Candidates; two parts that want the same one are one request.
    """
    for left, right in _halves(question):
        if (first := _wanted(runtime, left, tools)) is None:
            continue
        second = _wanted(runtime, right, tools)
        if second is not None and second is not first:
            return [(first, left), *(requests(runtime, right, tools) or [(second, right)])]
    return []


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """Yield the two sides of each joint, where both have two words or more."""
    found = 0
    for joint in _JOINT.finditer(text):
        mark = joint[0][0] if joint[0][0] in "?!" else ""  # "How cold is it" reads less like a request
        left, right = text[: joint.start()].strip(_EDGES) + mark, text[joint.end() :].strip(_EDGES)
        if len(left.split()) > 1 and len(right.split()) > 1 and found < MOST_JOINTS:
            found += 1
            yield left, right


def _wanted(runtime: Runtime, text: str, tools: Sequence[Tool]) -> Tool | None:
    """Return the tool that a part wants; None where it may do without one."""
    scores, plain = tool_scores(runtime, text, tools)
    best = max(range(len(tools)), key=scores.__getitem__)
    return tools[best] if scores[best] - plain >= MARGIN_NATS else None
