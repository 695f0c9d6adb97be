"""JSON schemas made ready for a grammar: checked, bounded, and refused where they cannot be enforced.

Knows JSON Schema and what llguidance enforces of it; refuses to know tokenizers and models. Importing it
imports no torch. The grammar library is asked as well: a keyword that it does not implement is an error
there, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool
from langchain_core.tools.base import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel

from llms.errors import UnsupportedSchema

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Schema = dict[str, Any]

_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "$comment", "$schema", "$id", "discriminator", "strict", "contentMediaType", "contentEncoding", "x-order",
}  # fmt: skip
_ENFORCED = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems",
    "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "anyOf", "oneOf", "allOf", "$ref", "$defs",
    "definitions", "nullable", "patternProperties",
}  # fmt: skip
_COMBINATORS = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
_WITH_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")

INTEGER_BOUND = 10**15
"""Integers without bounds stay within it: a grammar would take digits without end."""


def plain_schema(schema: Schema | type) -> Schema:
    """Return the JSON schema of a pydantic class, TypedDict, function schema or dictionary."""
    if isinstance(schema, dict) and "function" in schema:
        return dict(schema["function"].get("parameters") or {})
    if isinstance(schema, dict) and "parameters" in schema and "name" in schema:
        return dict(schema["parameters"])
    if isinstance(schema, dict):
        return dict(schema)
    return recursive_schema(schema) or dict(convert_to_json_schema(schema))


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


def check_schema(schema: Schema, what: str) -> None:
    """Refuse a schema that the grammar cannot enforce.

    Args:
        schema: A JSON schema.
        what: How to name it in the message.

    Raises:
        UnsupportedSchema: With the keyword and where it stands.
    """
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise UnsupportedSchema(
            f"Expected {what} to be a JSON schema, found a value JSON cannot hold ({error})."
        ) from error
    problem = _problem(text)
    if problem:
        raise UnsupportedSchema(
            f"Expected {what} to use only keywords that decoding can enforce, found {problem}. Leave that "
            f"out of the schema and check it in your own code."
        )


@lru_cache(maxsize=256)
def _problem(text: str) -> str:
    """Return what is wrong with a schema; "" for nothing."""
    schema = json.loads(text)
    if found := _unknown_keyword(schema, "$"):
        return found
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(prepared(schema), overrides=OPTIONS)
    except ValueError as error:
        return str(error)
    return str(LLMatcher.validate_grammar(grammar, None))


OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value: no endless whitespace, and the spacing that models have seen most."""


def _unknown_keyword(schema: Any, path: str) -> str:
    """Return the first keyword, with its place, that is neither enforced nor an annotation."""
    if isinstance(schema, bool):
        return "" if schema else f"the schema `false` at {path}, which no value satisfies"
    if not isinstance(schema, Mapping):
        return f"{schema!r} at {path}, where a schema belongs"
    for keyword, value in schema.items():
        if keyword not in _ENFORCED and keyword not in _ANNOTATIONS:
            return f"the keyword {keyword!r} at {path}"
        for name, inner in _children(keyword, value):
            if found := _unknown_keyword(inner, f"{path}.{keyword}{name}"):
                return found
    return ""


def _children(keyword: str, value: Any) -> list[tuple[str, Any]]:
    """Return the schemas inside a keyword, with their names."""
    if keyword in _WITH_SCHEMAS and isinstance(value, Mapping):
        return [(f".{name}", inner) for name, inner in value.items()]
    if keyword in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
        return [(f"[{i}]", inner) for i, inner in enumerate(value)]
    if keyword == "items":
        return [("", value)]
    if keyword == "additionalProperties" and isinstance(value, Mapping):
        return [("", value)]
    return []


def prepared(schema: Schema, *, closed: bool = True) -> Schema:
    """Return the schema as the grammar gets it.

    Annotations go, `nullable` becomes a union, objects that list properties are closed, and integers are
    bounded: each is a subset of what the schema allows, so valid stays valid.

    Args:
        schema: A checked JSON schema.
        closed: Forbid properties that are not listed (not inside `allOf`, where each branch sees all of
        them).
    """
    result: Schema = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS or keyword == "nullable":
            continue
        result[keyword] = _prepared_keyword(keyword, value, closed)
    lists = "properties" in result and "additionalProperties" not in result
    if closed and lists and not _COMBINATORS & set(result):
        result["additionalProperties"] = False
    if result.get("type") == "integer" and not {"enum", "const", *_COMBINATORS} & set(result):
        if "minimum" not in result and "exclusiveMinimum" not in result:
            result["minimum"] = min(-INTEGER_BOUND, _upper(result) - INTEGER_BOUND)
        if "maximum" not in result and "exclusiveMaximum" not in result:
            result["maximum"] = max(INTEGER_BOUND, _lower(result) + INTEGER_BOUND)
    if schema.get("nullable"):
        return {"anyOf": [result, {"type": "null"}]}
    return result


def _upper(schema: Schema) -> int:
    return int(schema.get("maximum") or schema.get("exclusiveMaximum") or 0)


def _lower(schema: Schema) -> int:
    return int(schema.get("minimum") or schema.get("exclusiveMinimum") or 0)


def _prepared_keyword(keyword: str, value: Any, closed: bool) -> Any:
    inner_closed = closed and keyword != "allOf"
    if keyword in _WITH_SCHEMAS and isinstance(value, Mapping):
        return {name: _prepared_value(inner, inner_closed) for name, inner in value.items()}
    if keyword in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
        return [_prepared_value(inner, inner_closed) for inner in value]
    if keyword in ("items", "additionalProperties"):
        return _prepared_value(value, inner_closed)
    return value


def _prepared_value(value: Any, closed: bool) -> Any:
    return prepared(dict(value), closed=closed) if isinstance(value, Mapping) else value
