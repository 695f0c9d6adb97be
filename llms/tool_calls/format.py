"""How tool lists, tool calls and tool results are written into a prompt, and read back.

Knows the formats; refuses to know templates' other rules, grammars and models. Two formats: Mistral's own,
which its chat template writes, and a generic one in plain text for templates that know nothing of tools.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ToolCallDict = dict[str, Any]
"""{"name": str, "args": dict, "id": str}, as LangChain has it."""

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """The text around calls.

    Attributes:
        name: `mistral`, `native` (the template lists tools, calls are `<tool_call>` blocks) or `generic`.
        opening: Text before the first call.
        closing: Text after the last call.
        separator: Text between two calls.
        as_list: Whether the calls stand in one JSON list.
        arguments_key: Name of the key that holds the arguments.
    """

    name: Literal["mistral", "native", "generic"]
    opening: str
    closing: str
    separator: str
    as_list: bool
    arguments_key: str = "arguments"


MISTRAL = ToolFormat(name="mistral", opening="[TOOL_CALLS]", closing="", separator=", ", as_list=True)
GENERIC = ToolFormat(
    name="generic",
    opening="<tool_call>\n",
    closing="\n</tool_call>",
    separator="\n</tool_call>\n<tool_call>\n",
    as_list=False,
)
NATIVE = ToolFormat(
    name="native",
    opening=GENERIC.opening,
    closing=GENERIC.closing,
    separator=GENERIC.separator,
    as_list=False,
)


def detect(template: str) -> ToolFormat:
    """Tell which format a chat template expects."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template and "tools" in template:
        return NATIVE
    return GENERIC


def new_id() -> str:
    """Return a fresh tool-call id of nine alphanumerics, the form that Mistral's template insists on."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


def short_id(identifier: str | None) -> str:
    """Map any tool-call id to nine alphanumerics; the same id always to the same ones."""
    text = identifier or ""
    if re.fullmatch(r"[A-Za-z0-9]{9}", text):
        return text
    import hashlib

    digest = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return "".join(_ALPHABET[digest // 62**i % 62] for i in range(9))


def tool_list_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Write the tools for a template that has no place for them: one JSON object a line."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return (
        "You can use these tools, one JSON object a line:\n"
        + "\n".join(lines)
        + '\nTo use one, answer only with <tool_call>\n{"name": its name, "arguments": {…}}\n</tool_call>'
    )


def calls_text(form: ToolFormat, calls: Sequence[Mapping[str, Any]]) -> str:
    """Write calls as the model would have written them."""
    body = form.separator.join(call_json(form, call["name"], call["args"]) for call in calls)
    return form.opening + (f"[{body}]" if form.as_list else body) + form.closing


def call_json(form: ToolFormat, name: str, args: Mapping[str, Any]) -> str:
    """Write one call as JSON, raw UTF-8."""
    return json.dumps({"name": name, form.arguments_key: args}, ensure_ascii=False)


RESULT_TAGS = ("<tool_response>", "</tool_response>")
"""What a tool's result stands between where a template has no tool role."""


def result_text(content: str, *, error: bool) -> str:
    """Write a tool's result for a template without a tool role; one without text says so.

    Between tags with nothing in them a small model finds only the tags to repeat.
    """
    opening, closing = RESULT_TAGS
    shown = content if content.strip() else "(no output)"
    return f"{opening}\n{'Error: ' if error else ''}{shown}\n{closing}"


def parse_calls(form: ToolFormat, text: str) -> tuple[str, list[ToolCallDict]] | None:
    """Split an answer into (text before, calls); None where it holds no call.

    Raises:
        ValueError: The text opens a call that is not valid JSON (a length limit cut it, for one).
    """
    marker = form.opening.strip()
    if marker not in text:
        return None
    before, _, rest = text.partition(marker)
    pieces = [rest] if form.as_list else rest.split(marker)
    calls: list[ToolCallDict] = []
    for piece in pieces:
        body = piece.replace(form.closing.strip(), "") if form.closing else piece
        parsed, _ = json.JSONDecoder().raw_decode(body.strip())
        for call in parsed if isinstance(parsed, list) else [parsed]:
            calls.append({"name": call["name"], "args": call[form.arguments_key], "id": new_id()})
    return before.strip(), calls
