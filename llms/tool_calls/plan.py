"""Planning calls with tools or an output schema: which grammar runs, and how its text is read.

Knows tool formats, choices and grammars; refuses to know decoders. A model under a billion parameters does
not pick well by writing: it is asked by log-probabilities which tool fits the message, or each part of it,
and writes only the arguments. A larger one writes freely until it opens a call itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage

from llms.call import Call, text_call
from llms.grammar.grammar import LazyConstraint
from llms.grammar.schema import OPTIONS, check_schema, hoist_definitions, json_text, prepared, union
from llms.prompts import message_text
from llms.small import choose_tool, copied_arguments, last_turn, split_requests
from llms.tool_calls.format import ToolFormat
from llms.tool_calls.output import ArgumentsTranslator, CallsTranslator

if TYPE_CHECKING:
    from llms.engine.request import Constraint
    from llms.params import GenerationParams
    from llms.protocols import ToolPicker
    from llms.runtime import Runtime

Tool = dict[str, Any]


def plan_schema(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    schema: dict[str, Any] | None,
) -> Call:
    """Plan an answer that is JSON under a schema (None: any object)."""
    if schema is not None:
        check_schema(schema, "the output schema")
    prompt = runtime.prompt_ids(with_schema_note(messages, schema))
    return Call(
        runtime=runtime,
        prompt=prompt,
        params=params,
        constraint=lambda: runtime.grammars.schema(schema),
    )


def plan_tools(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    tools: Sequence[Tool],
    choice: str,
    *,
    parallel: bool,
    copy: bool,
    picker: ToolPicker | None,
    otherwise: Callable[[], Call] | None = None,
) -> Call:
    """Plan an answer that may, or must, call tools.

    Args:
        runtime: The model.
        messages: The conversation.
        params: Checked parameters.
        tools: OpenAI-style tools.
        choice: `auto`, `any`, or a tool's name.
        parallel: Whether one answer may make several calls.
        copy: Whether a small model's arguments are copied from the message.
        picker: Picks the tool of a small model, instead of its log-probabilities.
        otherwise: Plans the answer where no tool is called, if that is no free text.
    """
    chosen = [tool for tool in tools if choice in ("auto", "any", _name(tool))]
    if not runtime.small:
        if otherwise is not None and choice == "auto":
            if not _would_call(runtime, messages, tools):
                return otherwise()
            choice = "any"
        return _written(runtime, messages, params, tools, chosen, choice=choice, parallel=parallel)
    turn = last_turn(messages)
    answer = otherwise or (lambda: text_call(runtime, messages, params))
    if choice == "auto" and turn.over:
        return answer()
    # A tool that has answered is not asked the same again while another one is left.
    chosen = [tool for tool in chosen if _name(tool) not in turn.answered_by] or chosen
    if parallel and len(chosen) > 1 and (parts := split_requests(runtime, turn.question, chosen)):
        return _several(runtime, messages, params, parts, copy=copy)
    tool = choose_tool(runtime, turn.question, chosen, must=choice != "auto", picker=picker)
    if tool is None:
        return answer()
    return _arguments(runtime, messages, params, tool, copy_from=turn.text if copy else None)


def _would_call(runtime: Runtime, messages: Sequence[BaseMessage], tools: Sequence[Tool]) -> bool:
    """Tell whether a model opens a call more probably than a JSON object."""
    text = runtime.prompts.render(messages, list(tools))
    item = runtime.split(text, [runtime.prompts.tool_format.opening.strip(), "{"], special=False)
    call, value = runtime.engine.score([item])[0]
    return call > value


def _arguments(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    tool: Tool,
    *,
    copy_from: str | None,
) -> Call:
    """Plan a call of one tool: the prompt already opens it, the model writes the arguments."""
    form = runtime.prompts.tool_format
    schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
    opened = runtime.prompts.render(messages, [tool]) + _opening(form, _name(tool))
    if copy_from is not None:
        schema = copied_arguments(runtime, opened, {**tool["function"], "parameters": schema}, copy_from)
    return Call(
        runtime=runtime,
        prompt=runtime.encode(opened, special=False),
        params=params,
        constraint=lambda: runtime.grammars.schema(schema),
        translator=lambda: ArgumentsTranslator(_name(tool)),
    )


def _several(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    parts: Sequence[tuple[Tool, str]],
    *,
    copy: bool,
) -> Call:
    """Plan one call for each part of the message; the model writes all arguments in one answer."""
    form = runtime.prompts.tool_format
    text = runtime.prompts.render(messages, list({_name(tool): tool for tool, _ in parts}.values()))
    schemas = []
    for tool, part in parts:
        schema = tool["function"].get("parameters") or {"type": "object", "properties": {}}
        if copy:
            function = {**tool["function"], "parameters": schema}
            schema = copied_arguments(runtime, text + _opening(form, _name(tool)), function, part)
        schemas.append(schema)
    begun = _opening(form, _name(parts[0][0]))
    return Call(
        runtime=runtime,
        prompt=runtime.encode(text + begun, special=False),
        params=params,
        constraint=lambda: runtime.grammars.lark(arguments_grammar(form, parts, schemas)),
        translator=lambda: CallsTranslator(form, opened=True, begun=begun.removeprefix(form.opening)),
    )


def arguments_grammar(
    form: ToolFormat, parts: Sequence[tuple[Tool, str]], schemas: Sequence[dict[str, Any]]
) -> str:
    """Return a Lark grammar for all calls but the beginning of the first and the end of the last."""
    heads = [_opening(form, _name(tool)).removeprefix(form.opening).removeprefix("[") for tool, _ in parts]
    rules = [f"a{i}: %json {_guided(prepared(schema))}" for i, schema in enumerate(schemas)]
    between = [f"{json_text('}' + form.separator + head)} a{i}" for i, head in enumerate(heads) if i]
    return "\n".join([f"start: a0 {' '.join(between)}", *rules, ""])


def _guided(schema: dict[str, Any]) -> str:
    """Return a schema for a `%json` part, with the spacing that all JSON here has."""
    return json_text({**schema, "x-guidance": OPTIONS})


def _opening(form: ToolFormat, name: str) -> str:
    """Return the text of a call up to its arguments."""
    head = json_text({"name": name})[:-1]
    return f'{form.opening}{"[" if form.as_list else ""}{head}, "{form.arguments_key}": '


def _written(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    tools: Sequence[Tool],
    chosen: Sequence[Tool],
    *,
    choice: str,
    parallel: bool,
) -> Call:
    """Plan calls that the model writes itself, valid from the marker on."""
    form = runtime.prompts.tool_format
    text = runtime.prompts.render(messages, list(tools))
    grammar = calls_grammar(form, chosen, parallel=parallel)
    must = choice != "auto"
    marker = form.opening.strip()

    def constraint() -> Constraint:
        inner = runtime.grammars.lark(grammar)
        if must:
            return inner
        marker_id = runtime.tokenizer.convert_tokens_to_ids(marker)
        known = marker_id is not None and marker_id != runtime.tokenizer.unk_token_id
        return LazyConstraint(runtime.grammars, marker, marker_id if known else None, inner)

    prompt = runtime.encode(text + (marker if must else ""), special=False)
    return Call(
        runtime=runtime,
        prompt=prompt,
        params=params,
        constraint=constraint,
        translator=lambda: CallsTranslator(form, opened=must),
        decode=None if must else runtime.decode_with(marker),
    )


def calls_grammar(form: ToolFormat, tools: Sequence[Tool], *, parallel: bool) -> str:
    """Return a Lark grammar for what follows the marker that opens calls."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": _name(tool)}, form.arguments_key: _parameters(tool)},
            "required": ["name", form.arguments_key],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    call = "%json " + _guided(hoist_definitions(union(calls)))
    if form.as_list:
        more = '(", " call)*' if parallel else ""
        return f'start: /\\s?/ "[" call {more} "]"\ncall: {call}\n'
    more = '("\\n</tool_call>\\n<tool_call>\\n" call)*' if parallel else ""
    return f'start: /\\s?/ call {more} "\\n</tool_call>"\ncall: {call}\n'


def _parameters(tool: Tool) -> dict[str, Any]:
    return prepared(tool["function"].get("parameters") or {"type": "object", "properties": {}})


def with_schema_note(messages: Sequence[BaseMessage], schema: dict[str, Any] | None) -> list[BaseMessage]:
    """Tell the model which JSON is wanted, at the end of the last user message."""
    note = "Answer with one JSON object."
    if schema is not None:
        note = f"Answer with one JSON value that follows this schema: {json_text(schema)}"
    noted = list(messages)
    for place in range(len(noted) - 1, -1, -1):
        if isinstance(noted[place], HumanMessage):
            noted[place] = HumanMessage(content=f"{message_text(noted[place])}\n\n{note}")
            return noted
    return [*noted, HumanMessage(content=note)]


def _name(tool: Tool) -> str:
    return str(tool["function"]["name"])
