"""Tools and output schemas in LangChain's forms, for `ChatLocal.bind_tools` and `with_structured_output`.

A schema that the grammar cannot enforce is refused when it is bound, and the error names the keyword.

    >>> openai_tools([{"name": "add", "parameters": {"type": "object", "properties": {}}}])[0]["type"]
    'function'
    >>> normal_choice("required", ["add"])
    'any'
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from llms.errors import BadRequest
from llms.grammar.schema import check_schema, lists_for_sets, plain_schema, read_by_pydantic, recursive_schema

Method = Literal["json_schema", "function_calling", "json_mode"]


def structured_output(
    model: BaseChatModel,
    schema: dict[str, Any] | type | None,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    options: dict[str, Any],
) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable whose answers follow a schema; see `ChatLocal.with_structured_output`."""
    if method not in ("json_schema", "function_calling", "json_mode"):
        raise BadRequest(
            f"expected method 'json_schema', 'function_calling' or 'json_mode', found {method!r}; choose one "
            f"of these"
        )
    bound, parser = _under(model, _titled(schema), method, strict, options)
    return _with_raw(bound, parser) if include_raw else bound | parser


def _under(
    model: BaseChatModel, schema: Any, method: Method, strict: bool | None, options: dict[str, Any]
) -> tuple[Runnable[LanguageModelInput, AIMessage], OutputParserLike[Any]]:
    """Return the model bound to a schema, and the parser of its answers."""
    if schema is None and method == "json_mode":
        return model.bind(response_format={"type": "json_object"}, **options), _WholeJson()
    note = {"kwargs": {"method": method, "strict": strict}, "schema": _described(schema)}
    if method == "function_calling":
        return _as_tool(model, schema, note, options)
    plain = plain_schema(schema)
    check_schema(plain, "the output schema")
    response_format = {"type": "json_schema", "json_schema": {"schema": plain}}
    bound = model.bind(response_format=response_format, ls_structured_output_format=note, **options)
    return bound, _json_parser(schema)


def _as_tool(
    model: BaseChatModel, schema: dict[str, Any] | type, note: dict[str, Any], options: dict[str, Any]
) -> tuple[Runnable[LanguageModelInput, AIMessage], OutputParserLike[Any]]:
    """Return the model bound to the schema as a tool that it must call, and the parser of that call."""
    name = convert_to_openai_tool(schema)["function"]["name"]
    bound = model.bind_tools(
        [schema], tool_choice=name, ls_structured_output_format=note, parallel_tool_calls=False, **options
    )
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return bound, _WholeModelCall(tools=[schema], first_tool_only=True)
    return bound, _WholeCall(key_name=name, first_tool_only=True)


def openai_tools(tools: Sequence[Any], strict: bool | None = None) -> list[dict[str, Any]]:
    """Return tools of any form that LangChain accepts as OpenAI-style dictionaries, each tool once.

    Raises:
        BadRequest: Something is not a tool, or two different tools have one name.
        UnsupportedSchema: A tool's parameters use a keyword that the grammar cannot enforce.
    """
    converted = [_converted(tool, strict) for tool in tools]
    checked_tools(converted)
    kept: dict[str, dict[str, Any]] = {}
    for tool in converted:
        function = tool["function"]
        other = kept.setdefault(function["name"], tool)["function"]
        if _argument_names(function) != _argument_names(other):
            raise BadRequest(
                f"expected tools of different names, found two named {function['name']!r}; rename one"
            )
    return list(kept.values())


def _argument_names(function: dict[str, Any]) -> set[str]:
    return set(function.get("parameters", {}).get("properties", {}))


def _converted(tool: Any, strict: bool | None) -> dict[str, Any]:
    """Return a tool as an OpenAI-style dictionary."""
    try:
        if isinstance(tool, dict) and tool.get("type") == "function" and "function" not in tool:
            tool = {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        converted = convert_to_openai_tool(tool, strict=strict)
        if not isinstance(tool, dict) and (schema := recursive_schema(tool)) is not None:
            converted["function"]["parameters"] = schema
        return dict(lists_for_sets(converted)) if read_by_pydantic(tool) else converted
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"expected a tool as a function with type hints and a docstring, a LangChain tool, a pydantic "
            f"model or an OpenAI tool dictionary, found {tool!r} ({type(error).__name__}); pass one of these"
        ) from error


def _described(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return a schema as LangChain shows it in traces. Raises `BadRequest` if it is not a schema."""
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"expected a pydantic class, a TypedDict, a JSON schema or an OpenAI tool dictionary, found "
            f"{schema!r} ({error}); for a key of a TypedDict that may be left out, write "
            "Annotated[type, default, description]"
        ) from error


def checked_tools(tools: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of OpenAI-style tools.

    Raises:
        BadRequest: A tool has no name, or its parameters are not an object.
        UnsupportedSchema: A tool's parameters use a keyword that the grammar cannot enforce.
    """
    names = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise BadRequest(
                "expected a tool with a name, {'type': 'function', 'function': {'name': ..., ...}}, found "
                f"{tool!r}; use bind_tools(), which makes one of a function"
            )
        names.append(name)
        parameters = function.get("parameters") or {}
        check_schema(parameters, f"tool {name!r}")
        if parameters.get("type", "object") != "object":
            raise BadRequest(
                f"expected the parameters of tool {name!r} to be an object, found type "
                f"{parameters['type']!r}; give the value a name by making it a field of an object"
            )
    return names


def normal_choice(choice: str | dict[str, Any] | bool | None, names: Sequence[str]) -> str | None:
    """Return `none`, `auto`, `any` or a tool's name, or None if no choice was made.

    Raises:
        BadRequest: The choice names a tool that is not bound.
    """
    if choice is None:
        return None
    if isinstance(choice, dict):
        choice = str(choice.get("function", choice).get("name", choice))
    if choice is True or choice in ("any", "required"):
        return "any"
    if choice is False:
        return "none"
    if choice in ("auto", "none") or choice in names:
        return choice
    raise BadRequest(
        f"expected tool_choice 'auto', 'none', 'any' or one of {list(names)!r}, found {choice!r}; choose one "
        f"of these"
    )


def response_schema(response_format: Any) -> dict[str, Any] | None:
    """Return the schema of a `response_format`, or None if it allows any JSON object.

    >>> response_schema({"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}})
    {'type': 'integer'}

    Raises:
        BadRequest: It is neither a response format of OpenAI's API nor a pydantic class.
    """
    if isinstance(response_format, type):
        return plain_schema(response_format)
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return None
    if kind == "json_schema":
        inner = response_format["json_schema"]
        return dict(inner.get("schema", inner))
    raise BadRequest(
        "expected response_format={'type': 'json_schema', ...}, {'type': 'json_object'}, {'type': 'text'} or "
        f"a pydantic class, found {response_format!r}; give one of these"
    )


class _Whole:
    """Base of parsers that refuse an answer cut by the token limit.

    The part that is left may parse and mean something else.
    """

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = getattr(result[0], "message", None)
        if not partial and message is not None and message.response_metadata.get("finish_reason") == "length":
            raise OutputParserException(
                f"expected a whole answer, found one that the token limit cut ({message.text!r}); raise "
                f"max_tokens, or ask for less",
                llm_output=message.text,
            )
        return super().parse_result(result, partial=partial)  # type: ignore[misc]


class _WholeJson(_Whole, JsonOutputParser):
    pass


class _WholeModel(_Whole, PydanticOutputParser[Any]):
    pass


class _WholeCall(_Whole, JsonOutputKeyToolsParser):
    pass


class _WholeModelCall(_Whole, PydanticToolsParser):
    pass


def _titled(schema: Any) -> Any:
    """Return a schema with a title, which LangChain uses as its name."""
    bare = isinstance(schema, dict) and not {"title", "name", "function"} & set(schema)
    return {"title": "answer", **schema} if bare else schema


def _with_raw(
    model: Runnable[LanguageModelInput, AIMessage], parser: OutputParserLike[Any]
) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable whose result is {"raw", "parsed", "parsing_error"}."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _json_parser(schema: dict[str, Any] | type) -> OutputParserLike[Any]:
    """Return the parser that turns JSON text into the type of the schema."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _WholeModel(pydantic_object=schema)
    return _WholeJson()
