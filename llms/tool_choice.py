"""Which tool a small model should call, if any, by log-probabilities.

Knows tools' names and descriptions and a runtime that scores; refuses to know grammars and prompts' formats.
A 135M model that writes the name picks the right tool in 70 % of cases; asked how probable the message is
given each tool, it does far better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llms.engine_shared import Runtime

Tool = dict[str, Any]
ToolScorer = Callable[[str, Sequence[str]], Sequence[float]]
"""(message, descriptions of tools) -> similarities in [-1, 1]."""

SIMILARITY_WEIGHT = 80.0
"""Nats that one unit of similarity is worth. On the tuning half of 100 cases the right tool came first in .89
of them by log-probability alone, in .98 with this weight; adding log p(name given message) lowered both."""

CALL_THRESHOLD = 0.0
"""Nats by which the best tool must explain the message better than plain conversation does."""

_LONGEST = 400
"""Characters of the message that are scored: what it asks for stands at its ends."""


def describe(tool: Tool) -> str:
    """Return a tool in one line: its name as words, then its description."""
    function = tool["function"]
    words = str(function["name"]).replace("_", " ")
    return f"{words}: {' '.join(str(function.get('description') or '').split())}"


def tool_scores(
    runtime: Runtime, question: str, tools: Sequence[Tool], scorer: ToolScorer | None = None
) -> tuple[list[float], float]:
    """Return (evidence of each tool, evidence of plain conversation), in nats.

    Args:
        runtime: The model.
        question: The user's message.
        tools: OpenAI-style tools.
        scorer: Optional similarities, added with a weight.
    """
    text = " " + shortened(question)
    prompts = [_given(describe(tool)) for tool in tools] + [_given("chat: talk with the user")]
    *scores, plain = (row[0] for row in runtime.score_many([(prompt, [text]) for prompt in prompts]))
    if scorer is not None:
        similar = scorer(question, [describe(tool) for tool in tools])
        scores = [s + SIMILARITY_WEIGHT * float(x) for s, x in zip(scores, similar, strict=True)]
    return scores, plain


def choose_tool(
    runtime: Runtime, question: str, tools: Sequence[Tool], *, must: bool, scorer: ToolScorer | None = None
) -> Tool | None:
    """Return the tool to call; None where the model should answer itself.

    Args:
        runtime: The model.
        question: The user's message.
        tools: Candidates, at least one.
        must: Whether a tool has to be called.
        scorer: Optional similarities.
    """
    if must and len(tools) == 1:
        return tools[0]
    scores, plain = tool_scores(runtime, question, tools, scorer)
    best = max(range(len(tools)), key=scores.__getitem__)
    if not must and scores[best] - plain < CALL_THRESHOLD:
        return None
    return tools[best]


def shortened(text: str) -> str:
    """Return a text's two ends where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _given(description: str) -> str:
    return f"Tool: {description}\nA user who needs this tool writes:"
