r"""The text of tool lists, tool calls and tool results in a prompt.

There are three formats: Mistral's own, `<tool_call>` blocks that the chat template writes (`native`), and the
same blocks written here for templates without tools (`generic`).

    >>> calls_text(GENERIC, [{"name": "add", "args": {"a": 1}}])
    '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    >>> _, [call] = parse_calls(MISTRAL, '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]')
    >>> call["name"], call["args"]
    ('add', {'a': 1})
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
"""{"name": str, "args": dict, "id": str}, as in LangChain."""

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """The text around the calls of an answer.

    Attributes:
        name: `mistral`, `native` or `generic`.
        opening: Text before the first call.
        closing: Text after the last call.
        separator: Text between two calls.
        as_list: Whether the calls form one JSON list.
        arguments_key: The key of a call's arguments.
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
    """Return the format that a chat template expects."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template and "tools" in template:
        return NATIVE
    return GENERIC


def new_id() -> str:
    """Return a new tool-call id of nine letters and digits, the form that Mistral's template requires."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


def short_id(identifier: str | None) -> str:
    """Return nine letters and digits for a tool-call id, always the same for the same id."""
    text = identifier or ""
    if re.fullmatch(r"[A-Za-z0-9]{9}", text):
        return text
    import hashlib

    digest = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return "".join(_ALPHABET[digest // 62**i % 62] for i in range(9))


def tool_list_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the text that describes tools for a template without tools: one JSON object per line."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return (
        "You can use these tools, one JSON object a line:\n"
        + "\n".join(lines)
        + '\nTo use one, answer only with <tool_call>\n{"name": its name, "arguments": {…}}\n</tool_call>'
    )


def calls_text(form: ToolFormat, calls: Sequence[Mapping[str, Any]]) -> str:
    """Return calls in the text that the model would have written."""
    body = form.separator.join(call_json(form, call["name"], call["args"]) for call in calls)
    return form.opening + (f"[{body}]" if form.as_list else body) + form.closing


def call_json(form: ToolFormat, name: str, args: Mapping[str, Any]) -> str:
    """Return one call as JSON, with characters outside ASCII as they are."""
    return json.dumps({"name": name, form.arguments_key: args}, ensure_ascii=False)


RESULT_TAGS = ("<tool_response>", "</tool_response>")
"""Tags around a tool's result for a template without a tool role."""


def result_text(content: str, *, error: bool) -> str:
    """Return the text of a tool's result for a template without a tool role.

    A result without text becomes "(no output)": a small model would repeat the tags if nothing stood between
    them.
    """
    opening, closing = RESULT_TAGS
    shown = content if content.strip() else "(no output)"
    return f"{opening}\n{'Error: ' if error else ''}{shown}\n{closing}"


def parse_calls(form: ToolFormat, text: str) -> tuple[str, list[ToolCallDict]] | None:
    """Return the text before the calls, and the calls. Returns None if there is no call.

    Raises:
        ValueError: A call is not valid JSON, for example because the token limit cut it.
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
