"""Plans of calls with tools: the prompt, the grammar, and how the answer is read.

A `ToolPlanner` plans the call for one kind of model. `WrittenCalls` is the planner of models that write their
calls themselves: they may write text, and a grammar takes over at the marker that opens a call. Models too
small for that have another planner, `llms.small.GuidedCalls`; the chat model chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import BaseMessage

from llms.call import Call
from llms.grammar.grammar import LazyConstraint
from llms.grammar.schema import OPTIONS, hoist_definitions, json_text, prepared, union
from llms.tool_calls.format import ToolFormat
from llms.tool_calls.output import CallsTranslator

if TYPE_CHECKING:
    from llms.engine.request import Constraint
    from llms.params import GenerationParams
    from llms.protocols import ToolPicker
    from llms.runtime import Runtime

Tool = dict[str, Any]
"""A tool as an OpenAI-style dictionary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolRequest:
    """A call of a chat model with tools.

    Attributes:
        messages: The conversation.
        params: Parameters that have been checked.
        tools: All tools, at least one.
        choice: `auto`, `any`, or the name of the tool to call.
        parallel: Whether one answer may make several calls.
        copy: Whether a small model may only copy arguments from the message.
        answer: Plans the answer if no tool is called. None: the answer is text.
        picker: Picks the tool in place of a small model's log-probabilities. Optional.
    """

    messages: Sequence[BaseMessage]
    params: GenerationParams
    tools: Sequence[Tool]
    choice: str = "auto"
    parallel: bool = True
    copy: bool = True
    answer: Callable[[], Call] | None = None
    picker: ToolPicker | None = None

    @property
    def candidates(self) -> list[Tool]:
        """The tools that the choice allows."""
        return [tool for tool in self.tools if self.choice in ("auto", "any", tool_name(tool))]


class ToolPlanner(Protocol):
    """Plans calls with tools for one kind of model."""

    def plan(self, request: ToolRequest) -> Call:
        """Return the call. Its answer may, or must, call tools as the request says."""
        ...


class WrittenCalls:
    """The `ToolPlanner` of models that decide and write their calls themselves.

    Args:
        runtime: The model.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def plan(self, request: ToolRequest) -> Call:
        """Return a call whose answer is valid from the marker on that opens a tool call.

        If an answer without a tool is not free text, one grammar cannot hold both, so the model's preference
        for a tool call is measured first.
        """
        must = request.choice != "auto"
        if request.answer is not None and not must:
            if not self._prefers_call(request):
                return request.answer()
            must = True
        runtime = self._runtime
        form = runtime.prompts.tool_format
        marker = form.opening.strip()
        text = runtime.prompts.write(request.messages, list(request.tools))
        grammar = calls_grammar(form, request.candidates, parallel=request.parallel)

        def constraint() -> Constraint:
            inner = runtime.grammars.lark(grammar)
            if must:
                return inner
            marker_id = runtime.tokenizer.convert_tokens_to_ids(marker)
            known = marker_id is not None and marker_id != runtime.tokenizer.unk_token_id
            return LazyConstraint(runtime.grammars, marker, marker_id if known else None, inner)

        return Call(
            runtime=runtime,
            prompt=runtime.encode(text + (marker if must else ""), special=False),
            params=request.params,
            constraint=constraint,
            translator=lambda: CallsTranslator(form, opened=must),
            decode=None if must else runtime.decode_with(marker),
        )

    def _prefers_call(self, request: ToolRequest) -> bool:
        """Return whether the marker of a tool call is more probable than the beginning of a JSON object."""
        text = self._runtime.prompts.write(request.messages, list(request.tools))
        marker = self._runtime.prompts.tool_format.opening.strip()
        item = self._runtime.split(text, [marker, "{"], special=False)
        call, value = self._runtime.engine.score([item])[0]
        return call > value


def calls_grammar(form: ToolFormat, tools: Sequence[Tool], *, parallel: bool) -> str:
    """Return a Lark grammar for the text after the marker that opens calls."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool_name(tool)},
                form.arguments_key: prepared(parameters(tool)),
            },
            "required": ["name", form.arguments_key],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    call = "%json " + _spaced(hoist_definitions(union(calls)))
    if form.as_list:
        more = '(", " call)*' if parallel else ""
        return f'start: /\\s?/ "[" call {more} "]"\ncall: {call}\n'
    more = '("\\n</tool_call>\\n<tool_call>\\n" call)*' if parallel else ""
    return f'start: /\\s?/ call {more} "\\n</tool_call>"\ncall: {call}\n'


def arguments_grammar(form: ToolFormat, tools: Sequence[Tool], schemas: Sequence[dict[str, Any]]) -> str:
    """Return a Lark grammar for calls of given tools, without the beginning of the first and the last end.

    Args:
        form: The format of the calls.
        tools: The tools to call, in order.
        schemas: The schema of each call's arguments.
    """
    heads = [call_head(form, tool_name(tool)).removeprefix(form.opening).removeprefix("[") for tool in tools]
    rules = [f"a{i}: %json {_spaced(prepared(schema))}" for i, schema in enumerate(schemas)]
    between = [f"{json_text('}' + form.separator + head)} a{i}" for i, head in enumerate(heads) if i]
    return "\n".join([f"start: a0 {' '.join(between)}", *rules, ""])


def call_head(form: ToolFormat, name: str) -> str:
    """Return the text of a call up to its arguments."""
    head = json_text({"name": name})[:-1]
    return f'{form.opening}{"[" if form.as_list else ""}{head}, "{form.arguments_key}": '


def parameters(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's parameters, an object schema."""
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def tool_name(tool: Tool) -> str:
    """Return the name of a tool."""
    return str(tool["function"]["name"])


def _spaced(schema: dict[str, Any]) -> str:
    """Return a schema for a `%json` part that asks for the same spacing as other grammars."""
    return json_text({**schema, "x-guidance": OPTIONS})
