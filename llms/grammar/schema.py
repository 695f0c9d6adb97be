"""Where schemas come from: pydantic classes, functions, LangChain tools, TypedDicts and dictionaries.

Knows LangChain's conversions and what they lose; refuses to know grammars.

The `format` of a text: which are written by a pattern, and which are only notes.

Knows formats of JSON Schema and of pydantic, and leaves the rest to the grammar library, which refuses what
it does not know; refuses to know other keywords.

JSON schemas made ready for a grammar: checked, bounded, and refused where they cannot be enforced.

Knows JSON Schema and what llguidance enforces of it; refuses to know tokenizers, models and where schemas
come from (`schema_sources`). Importing it imports no torch. The grammar library is asked as well: a keyword
that it does not implement is an error there, too.
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


NOTES = {
    "password", "path", "file-path", "directory-path", "new-path", "binary", "color", "phone", "html",
    "markdown", "commonmark", "multiline", "textarea", "char", "code",
}  # fmt: skip
"""Formats of pydantic, OpenAPI and forms that ask nothing of the text: they say what it is for. Any other
that is unknown here is refused, since somebody may check it (`regex`, `ipvanyaddress`, `base64`)."""

_YEAR, _LEAP = "[1-9][0-9]{3}", "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)"
_DAYS = (
    "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])"
)
_DATE = f"({_YEAR}-({_DAYS})|{_LEAP}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_SPAN = "([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)"
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-%d[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P([0-9]{{1,4}}[YMWD]|([0-9]{{1,4}}D)?T{_SPAN})$",
    **{f"uuid{version}": _UUID % version for version in range(1, 9)},
}
"""Written by a pattern: a subset of what RFC 3339 (section 5.6 and appendix A) allows, which every reader
takes. The library's own dates have a 29 February every year and a year 0, its times leap seconds, and its
durations digits without end."""

_LABEL = "[A-Za-z]([A-Za-z0-9]|-[A-Za-z0-9]){0,40}"
WEB_ADDRESS = rf"^https?://({_LABEL}\.){{1,4}}[A-Za-z]{{2,12}}(:[1-9][0-9]{{0,3}})?(/[!#-;=?-Z_a-z~]*)?$"
"""A URI that pydantic's HttpUrl takes: no bare numbers as hosts (they are read as IPv4), no punycode."""

_LONGEST_WEB_ADDRESS = 2083
"""pydantic's bound on an HttpUrl, the one thing in which its schema differs from that of other URIs."""


def written(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose format can be written, became a pattern, or is gone because it is only a note.

    Args:
        schema: A JSON schema of one value; what it holds inside is left alone.
    """
    kind = schema.get("format")
    if not isinstance(kind, str):
        return dict(schema)
    pattern = PATTERNS.get(kind)
    if kind == "uri" and schema.get("maxLength") == _LONGEST_WEB_ADDRESS:
        pattern = WEB_ADDRESS
    rest = {keyword: value for keyword, value in schema.items() if keyword != "format"}
    if kind in NOTES:
        return rest
    return dict(schema) if pattern is None or "pattern" in schema else {**rest, "pattern": pattern}


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
