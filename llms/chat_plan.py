"""Planning one chat call: prompt, parameters, grammar, and how the answer is to be read.

Knows which options mean what and which part serves them; refuses to know decoders and LangChain's callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from llms.chat_call import Call, text_call
from llms.chat_structured import checked_tools, normal_choice
from llms.errors import BadRequest
from llms.grammar.schema_sources import plain_schema

if TYPE_CHECKING:
    from llms.chat import ChatLocal


def plan(
    chat: ChatLocal, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
) -> Call:
    """Plan one call.

    Args:
        chat: The model asked.
        messages: The conversation.
        stop: Stop strings of this call.
        kwargs: Call options: generation parameters, `model`, `tools`, `tool_choice`, `response_format`.

    Raises:
        RequestError: Options, messages or schema that cannot be served.
        LLMError: What loading the model raises.
    """
    options = {name: value for name, value in kwargs.items() if name != "strict"}
    model = options.pop("model", None)
    tools = options.pop("tools", None) or []
    # A schema bound as a tool wants text made up; a tool's arguments are what the message says.
    copy = "ls_structured_output_format" not in options
    choice = normal_choice(options.pop("tool_choice", None), checked_tools(tools)) or "auto"
    if (response_format := options.pop("response_format", None)) == {"type": "text"}:
        response_format = None
    parallel = options.pop("parallel_tool_calls", None) is not False
    params = chat.params().merged(options, stop)
    runtime = chat.runtime(model)
    if response_format is None and (not tools or choice == "none"):
        return text_call(runtime, messages, params)
    from llms.tool_calls.plan import plan_schema, plan_tools

    def structured() -> Call:
        return plan_schema(runtime, messages, params, _schema_of(response_format))

    if not tools or choice == "none":
        return structured()
    otherwise = None if response_format is None else structured
    how = {"parallel": parallel, "copy": copy}
    return plan_tools(
        runtime, messages, params, tools, choice, scorer=chat.tool_scorer, otherwise=otherwise, **how
    )


def _schema_of(response_format: Any) -> dict[str, Any] | None:
    """Return the schema of a `response_format`; None for any JSON object."""
    if isinstance(response_format, type):
        return plain_schema(response_format)
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return None
    if kind == "json_schema":
        inner = response_format["json_schema"]
        return dict(inner.get("schema", inner))
    raise BadRequest(
        "Expected response_format={'type': 'json_schema', ...}, {'type': 'json_object'}, {'type': 'text'} or "
        f"a pydantic class, found {response_format!r}. Give one of these."
    )
