"""JSON schemas made ready for a grammar: checked, bounded, and refused where they cannot be enforced.

Knows JSON Schema and what llguidance enforces of it; refuses to know tokenizers, models and where schemas
come from (`schema_sources`). Importing it imports no torch. The grammar library is asked as well: a keyword
that it does not implement is an error there, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llms.errors import UnsupportedSchema
from llms.grammar.schema_formats import written

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
    "definitions", "nullable", "patternProperties", "propertyNames",
}  # fmt: skip
_COMBINATORS = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
_WITH_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")

INTEGER_BOUND = 10**15
"""Integers without bounds stay within it: a grammar would take digits without end."""


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
        known = keyword in _ENFORCED or _is_note(keyword)
        if not known or (keyword == "propertyNames" and _names(schema) is None):
            return f"the keyword {keyword!r} at {path}"
        if keyword == "items" and value is False and "prefixItems" in schema:
            continue
        for name, inner in _children(keyword, value):
            if found := _unknown_keyword(inner, f"{path}.{keyword}{name}"):
                return found
    return ""


def _is_note(keyword: str) -> bool:
    """Tell whether a keyword asks for nothing: an annotation, or an extension by OpenAPI's convention."""
    return keyword in _ANNOTATIONS or keyword.startswith("x-")


def _names(schema: Mapping[str, Any]) -> list[str] | None:
    """Return the keys of a map whose keys are listed (`dict[Color, int]`); None for any other schema."""
    names = schema.get("propertyNames")
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & set(schema):
        return None
    listed = names.get("enum", [names.get("const")])
    return listed if isinstance(listed, list) and all(isinstance(name, str) for name in listed) else None


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

    Annotations go, `nullable` becomes a union, objects that list properties are closed, integers are bounded,
    and some formats become patterns: each is a subset of what the schema allows, so valid stays valid.

    Args:
        schema: A checked JSON schema.
        closed: Forbid properties that are not listed (not inside `allOf`, where each branch sees all of
        them).
    """
    result: Schema = {}
    for keyword, value in _listed(written(schema)).items():
        if _is_note(keyword) or keyword == "nullable":
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


def _listed(schema: Schema) -> Schema:
    """Write a map of listed keys as an object of these, and a tuple that ends as one of that length."""
    schema = dict(schema)
    if (names := _names(schema)) is not None:
        del schema["propertyNames"]
        inner = schema.get("additionalProperties", True)
        schema |= {"properties": dict.fromkeys(names, inner), "additionalProperties": False}
    if schema.get("items") is False and "prefixItems" in schema:
        del schema["items"]
        length = len(schema["prefixItems"])
        schema["maxItems"] = min(length, schema.get("maxItems", length))
    return schema


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
