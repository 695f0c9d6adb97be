"""`bind_tools` and `with_structured_output` for local models.

Knows LangChain's conventions for tools and schemas; refuses to know grammars and models. What a schema asks
for and the grammar cannot enforce is refused here, when it is bound, with the keyword named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from llms.errors import BadRequest
from llms.grammar.schema import check_schema, lists_for_sets, merges, plain_schema, recursive_schema

Method = Literal["json_schema", "function_calling", "json_mode"]


class ToolsAndSchemas(BaseChatModel):
    """The part of a chat model that binds tools and output schemas."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools that it may call.

        Args:
            tools: Functions, LangChain tools, pydantic models, or JSON schemas.
            tool_choice: None or `auto` (the model decides), `none`, `any`/`required`/True, or a tool's name.
            strict: Accepted; arguments always follow their schema.
            parallel_tool_calls: False allows one call an answer at most.
            **kwargs: Further call options.

        Raises:
            UnsupportedSchema: A tool's schema uses a keyword that the grammar cannot enforce.
            BadRequest: Something that is no tool, two tools of one name, or a `tool_choice` that names none.
        """
        listed = _distinct([_converted(tool, strict) for tool in tools])
        names = [tool["function"]["name"] for tool in listed]
        if (choice := normal_choice(tool_choice, names)) is not None:
            kwargs["tool_choice"] = choice
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return super().bind(tools=listed, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers follow a schema.

        Args:
            schema: Pydantic class (v2 or v1), TypedDict, JSON schema, or OpenAI tool dictionary; None, with
                `json_mode` only, for any JSON object. A pydantic class's sets are written as lists, which
                it reads; a Decimal may come as a text that it refuses, its schema says no more than that.
            method: `json_schema` and `json_mode` answer in JSON under the schema's grammar;
                `function_calling` calls a tool of that schema.
            include_raw: Return {"raw", "parsed", "parsing_error"} instead of the parsed answer alone.
            strict: Accepted; answers always follow the schema.
            **kwargs: Further call options.

        Raises:
            UnsupportedSchema: The schema uses a keyword that the grammar cannot enforce.
            BadRequest: An unknown method, or something that is no schema.
            OutputParserException: On use, where max_tokens cut the answer.
        """
        if method not in ("json_schema", "function_calling", "json_mode"):
            raise BadRequest(
                f"Expected method 'json_schema', 'function_calling' or 'json_mode', found {method!r}."
            )
        model, parser = self._under(_titled(schema), method, strict, kwargs)
        return _beside_raw(model, parser) if include_raw else model | parser

    def _under(
        self, schema: Any, method: Method, strict: bool | None, kwargs: dict[str, Any]
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], OutputParserLike[Any]]:
        """Bind a schema, and return what reads its answers."""
        if schema is None and method == "json_mode":
            return self.bind(response_format={"type": "json_object"}, **kwargs), _WholeJson()
        note = {"kwargs": {"method": method, "strict": strict}, "schema": _described(schema)}
        if method == "function_calling":
            return self._as_tool(schema, note, kwargs)
        plain = plain_schema(schema)
        check_schema(plain, "the output schema")
        response_format = {"type": "json_schema", "json_schema": {"schema": plain}}
        model = self.bind(response_format=response_format, ls_structured_output_format=note, **kwargs)
        return model, _json_parser(schema)

    def _as_tool(
        self, schema: dict[str, Any] | type, note: dict[str, Any], kwargs: dict[str, Any]
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], OutputParserLike[Any]]:
        """Bind the schema as the one tool that must be called."""
        name = convert_to_openai_tool(schema)["function"]["name"]
        model = self.bind_tools(
            [schema], tool_choice=name, ls_structured_output_format=note, parallel_tool_calls=False, **kwargs
        )
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            return model, _WholeModelCall(tools=[schema], first_tool_only=True)
        return model, _WholeCall(key_name=name, first_tool_only=True)


def _converted(tool: Any, strict: bool | None) -> dict[str, Any]:
    """Return a tool as OpenAI's format has it."""
    try:
        if isinstance(tool, dict) and tool.get("type") == "function" and "function" not in tool:
            tool = {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        converted = convert_to_openai_tool(tool, strict=strict)
        if not isinstance(tool, dict) and (schema := recursive_schema(tool)) is not None:
            converted["function"]["parameters"] = schema
        return dict(lists_for_sets(converted)) if merges(tool) else converted
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"Expected a tool as a function with type hints and a docstring, a LangChain tool, a pydantic "
            f"model or an OpenAI tool dictionary, found {tool!r} ({type(error).__name__}). Pass one of these."
        ) from error


def _described(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return a schema as LangChain shows it in traces; the first to see what is no schema at all."""
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"Expected a pydantic class, a TypedDict, a JSON schema or an OpenAI tool dictionary, found "
            f"{schema!r} ({error}). For a key of a TypedDict that may be left out write "
            "Annotated[type, default, description]."
        ) from error


def checked_tools(tools: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of OpenAI-style tools.

    Raises:
        BadRequest: A tool without a name.
        UnsupportedSchema: Parameters with a keyword that the grammar cannot enforce.
    """
    names = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise BadRequest(
                "Expected a tool with a name, {'type': 'function', 'function': {'name': ..., ...}}, found "
                f"{tool!r}. Use bind_tools(), which writes this from a function."
            )
        names.append(name)
        parameters = function.get("parameters") or {}
        check_schema(parameters, f"tool {name!r}")
        if parameters.get("type", "object") != "object":
            raise BadRequest(
                f"Expected the parameters of tool {name!r} to be an object, found type "
                f"{parameters['type']!r}. Give the value a name: make it a field of an object."
            )
    return names


def _distinct(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop tools that were given twice; refuse two that share a name only."""
    checked_tools(tools)
    kept: dict[str, dict[str, Any]] = {}
    for tool in tools:
        function = tool["function"]
        other = kept.setdefault(function["name"], tool)["function"]
        if set(other.get("parameters", {}).get("properties", {})) != set(
            function.get("parameters", {}).get("properties", {})
        ):
            raise BadRequest(
                f"Expected tools of different names, found two named {function['name']!r}. Rename one."
            )
    return list(kept.values())


def normal_choice(choice: str | dict[str, Any] | bool | None, names: Sequence[str]) -> str | None:
    """Return `none`, `auto`, `any` or a tool's name; None where nothing was chosen.

    Raises:
        BadRequest: The choice names no bound tool.
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
        f"Expected tool_choice 'auto', 'none', 'any' or one of {list(names)!r}, found {choice!r}."
    )


class _Whole:
    """Refuses an answer that the token limit cut: what is left of it may parse and mean something else."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = getattr(result[0], "message", None)
        if not partial and message is not None and message.response_metadata.get("finish_reason") == "length":
            raise OutputParserException(
                f"Expected a whole answer, found one that the token limit cut: {message.text!r}. "
                f"Raise max_tokens, or ask for less.",
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
    """Return a schema with a title, by which LangChain names it."""
    bare = isinstance(schema, dict) and not {"title", "name", "function"} & set(schema)
    return {"title": "answer", **schema} if bare else schema


def _beside_raw(
    model: Runnable[LanguageModelInput, AIMessage], parser: OutputParserLike[Any]
) -> Runnable[LanguageModelInput, Any]:
    """Return {"raw", "parsed", "parsing_error"} of what a model answers."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _json_parser(schema: dict[str, Any] | type) -> OutputParserLike[Any]:
    """Return what turns the JSON text into the schema's type."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _WholeModel(pydantic_object=schema)
    return _WholeJson()
