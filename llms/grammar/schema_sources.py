"""Where schemas come from: pydantic classes, functions, LangChain tools, TypedDicts and dictionaries.

Knows LangChain's conversions and what they lose; refuses to know grammars.
"""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.tools.base import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel

from llms.grammar.schema import Schema


def plain_schema(schema: Schema | type) -> Schema:
    """Return the JSON schema of a pydantic class, TypedDict, function schema or dictionary."""
    if isinstance(schema, dict) and "function" in schema:
        return dict(schema["function"].get("parameters") or {})
    if isinstance(schema, dict) and "parameters" in schema and "name" in schema:
        return dict(schema["parameters"])
    if isinstance(schema, dict):
        return dict(schema)
    found = recursive_schema(schema) or dict(convert_to_json_schema(schema))
    return lists_for_sets(found) if merges(schema) else found


def recursive_schema(source: Any) -> Schema | None:
    """Return the own schema of a pydantic class, tool or function that refers to itself; None for all others.

    LangChain's conversion puts definitions in place of references; a recursive one becomes empty: any value.
    """
    if isinstance(source, BaseTool):
        source = source.tool_call_schema
    elif callable(source) and not isinstance(source, type):
        source = create_schema_from_function(source.__name__, source)
    if not (isinstance(source, type) and issubclass(source, BaseModel)):
        return None
    schema = source.model_json_schema()
    definitions = schema.get("$defs", {})
    if not any(name in _reached(definitions, inner) for name, inner in definitions.items()):
        return None
    root = definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else {}
    return {**root, "$defs": definitions} if root else schema


def merges(source: Any) -> bool:
    """Tell whether pydantic reads what is written for a source: it takes any list for a set."""
    if isinstance(source, BaseTool):
        source = source.args_schema
    if isinstance(source, type):
        return issubclass(source, BaseModel)
    return callable(source)


def lists_for_sets(schema: Any) -> Any:
    """Return a schema whose sets are lists: no grammar can tell that an item is new."""
    if isinstance(schema, list):
        return [lists_for_sets(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if (key, value) != ("uniqueItems", True)}
    return {key: lists_for_sets(value) for key, value in kept.items()}


def _reached(definitions: Schema, start: Any) -> set[str]:
    """Return the names of the definitions that a schema leads to."""
    found: set[str] = set()
    left = [start]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            name = str(value.get("$ref", "")).rsplit("/", 1)[-1]
            if name in definitions and name not in found:
                found.add(name)
                left.append(definitions[name])
            left += value.values()
    return found
