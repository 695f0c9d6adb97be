"""JSON schemas for grammars: read from Python types, checked, and prepared so that decoding can enforce them.

Three parts: the JSON schema of a pydantic class, TypedDict, function or tool (`plain_schema`), formats of
strings (`with_pattern`), and schemas as a grammar takes them (`check_schema`, `prepared`,
`hoist_definitions`). A schema with a keyword that the grammar cannot enforce is refused, and llguidance
checks it once more. Importing this module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def plain_schema(schema: Schema | type) -> Schema:
    """Return the JSON schema of a pydantic class, TypedDict, OpenAI tool dictionary or JSON schema.

    >>> plain_schema({"name": "add", "parameters": {"type": "object", "properties": {}}})
    {'type': 'object', 'properties': {}}
    """
    if isinstance(schema, dict) and "function" in schema:
        return dict(schema["function"].get("parameters") or {})
    if isinstance(schema, dict) and "parameters" in schema and "name" in schema:
        return dict(schema["parameters"])
    if isinstance(schema, dict):
        return dict(schema)
    found = recursive_schema(schema) or dict(convert_to_json_schema(schema))
    return lists_for_sets(found) if read_by_pydantic(schema) else found


def recursive_schema(source: Any) -> Schema | None:
    """Return pydantic's schema of a class, tool or function that refers to itself, or None for all others.

    LangChain's conversion replaces references by their definitions. A recursive reference becomes the empty
    schema, which allows any value.
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


def read_by_pydantic(source: Any) -> bool:
    """Return whether pydantic will read the values of a schema. It makes a set of any list."""
    if isinstance(source, BaseTool):
        source = source.args_schema
    if isinstance(source, type):
        return issubclass(source, BaseModel)
    return callable(source)


def lists_for_sets(schema: Any) -> Any:
    """Return a schema without `uniqueItems`, since no grammar can tell whether an item is new."""
    if isinstance(schema, list):
        return [lists_for_sets(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if (key, value) != ("uniqueItems", True)}
    return {key: lists_for_sets(value) for key, value in kept.items()}


def _reached(definitions: Schema, start: Any) -> set[str]:
    """Return the names of the definitions that a schema refers to, directly or through others."""
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


WITHOUT_MEANING = {
    "password", "path", "file-path", "directory-path", "new-path", "binary", "color", "phone", "html",
    "markdown", "commonmark", "multiline", "textarea", "char", "code",
}  # fmt: skip
"""Formats of pydantic, OpenAPI and forms that only say what a text is for. Any other unknown format is
refused, since the reader of the value may check it (`regex`, `ipvanyaddress`, `base64`)."""

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
"""Patterns of formats: a subset of RFC 3339 (section 5.6 and appendix A) that every reader accepts.
llguidance's own dates have a year 0 and a 29 February in every year, its times have leap seconds, and its
durations any number of digits."""

_LABEL = "[A-Za-z]([A-Za-z0-9]|-[A-Za-z0-9]){0,40}"
WEB_ADDRESS = rf"^https?://({_LABEL}\.){{1,4}}[A-Za-z]{{2,12}}(:[1-9][0-9]{{0,3}})?(/[!#-;=?-Z_a-z~]*)?$"
"""A URI that pydantic's HttpUrl accepts. Its host is neither a bare number, which is read as IPv4, nor
punycode."""

_LONGEST_WEB_ADDRESS = 2083
"""pydantic's limit for an HttpUrl. Nothing else distinguishes its schema from that of other URIs."""


def with_pattern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its `format` replaced by a pattern, or removed if the format asks nothing.

    Schemas inside it are left as they are.

    >>> with_pattern({"type": "string", "format": "password"})
    {'type': 'string'}
    """
    kind = schema.get("format")
    if not isinstance(kind, str):
        return dict(schema)
    pattern = PATTERNS.get(kind)
    if kind == "uri" and schema.get("maxLength") == _LONGEST_WEB_ADDRESS:
        pattern = WEB_ADDRESS
    rest = {keyword: value for keyword, value in schema.items() if keyword != "format"}
    if kind in WITHOUT_MEANING:
        return rest
    return dict(schema) if pattern is None or "pattern" in schema else {**rest, "pattern": pattern}


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
"""Bound of integers that have none in their schema. A grammar would allow any number of digits."""


def check_schema(schema: Schema, what: str) -> None:
    """Raise an error if the grammar cannot enforce a schema.

    Args:
        schema: A JSON schema.
        what: The name of the schema in the message.

    Raises:
        UnsupportedSchema: The message names the keyword and its path.
    """
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise UnsupportedSchema(
            f"expected {what} to be a JSON schema, found a value outside JSON ({error}); leave it out"
        ) from error
    problem = _problem(text)
    if problem:
        raise UnsupportedSchema(
            f"expected {what} to use only keywords that decoding can enforce, found {problem}; leave that "
            f"out of the schema and check it in your own code"
        )


@lru_cache(maxsize=256)
def _problem(text: str) -> str:
    """Return the problem of a schema, or "" if it has none."""
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
"""How llguidance writes JSON: with the spacing that models have seen most, and none other, so that no text is
endless whitespace."""


def _unknown_keyword(schema: Any, path: str) -> str:
    """Return the first keyword that is neither enforced nor an annotation, with its path, or ""."""
    if isinstance(schema, bool):
        return "" if schema else f"the schema `false` at {path}, which no value satisfies"
    if not isinstance(schema, Mapping):
        return f"{schema!r} in place of a schema at {path}"
    for keyword, value in schema.items():
        known = keyword in _ENFORCED or _is_annotation(keyword)
        if not known or (keyword == "propertyNames" and _names(schema) is None):
            return f"the keyword {keyword!r} at {path}"
        if keyword == "items" and value is False and "prefixItems" in schema:
            continue
        for name, inner in _children(keyword, value):
            if found := _unknown_keyword(inner, f"{path}.{keyword}{name}"):
                return found
    return ""


def _is_annotation(keyword: str) -> bool:
    """Return whether a keyword constrains nothing. `x-...` are extensions by OpenAPI's convention."""
    return keyword in _ANNOTATIONS or keyword.startswith("x-")


def _names(schema: Mapping[str, Any]) -> list[str] | None:
    """Return the keys of a map with listed keys (`dict[Color, int]`), or None for any other schema."""
    names = schema.get("propertyNames")
    if not isinstance(names, Mapping) or {"properties", "patternProperties"} & set(schema):
        return None
    listed = names.get("enum", [names.get("const")])
    return listed if isinstance(listed, list) and all(isinstance(name, str) for name in listed) else None


def _children(keyword: str, value: Any) -> list[tuple[str, Any]]:
    """Return the schemas inside a keyword, each with its name."""
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
    """Return a schema in the form that the grammar gets.

    Annotations are removed, `nullable` becomes a union, objects that list properties allow no others,
    integers get bounds, and some formats become patterns. Each step only narrows the schema, so every text of
    the result is valid under the original.

    >>> prepared({"title": "Age", "type": "integer", "minimum": 0, "maximum": 150})
    {'type': 'integer', 'minimum': 0, 'maximum': 150}

    Args:
        schema: A checked JSON schema.
        closed: Whether to forbid properties that are not listed. Inside `allOf` they stay allowed, because
            each branch sees the properties of all branches.
    """
    result: Schema = {}
    for keyword, value in _listed(with_pattern(schema)).items():
        if _is_annotation(keyword) or keyword == "nullable":
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
    """Return a schema with a map of listed keys as an object, and a closed tuple with a `maxItems`."""
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


def union(schemas: Sequence[Schema]) -> Schema:
    """Return a schema that allows what any of the given ones allows."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def hoist_definitions(schema: Schema) -> Schema:
    """Return a schema with the definitions of its inner schemas moved to the top.

    References are resolved from the top, so a schema that was put inside another one would not find its own.
    Each definition gets a name of its own, and references follow.
    """
    definitions: Schema = {}

    def lift(value: Any, prefix: str) -> Any:
        if isinstance(value, list):
            return [lift(item, f"{prefix}{i}") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        own = {key: value[key] for key in ("$defs", "definitions") if key in value}
        for inner in own.values():
            definitions.update({f"{prefix}_{n}": _renamed(s, prefix) for n, s in inner.items()})
        rest = {key: lift(item, prefix) for key, item in value.items() if key not in own}
        return _renamed(rest, prefix) if own else rest

    lifted = lift(schema, "t")
    return {**lifted, "$defs": definitions} if definitions else dict(lifted)


def _renamed(value: Any, prefix: str) -> Any:
    """Return a schema whose references point at the moved definitions."""
    if isinstance(value, list):
        return [_renamed(item, prefix) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"#/$defs/{prefix}_{item.rsplit('/', 1)[-1]}" if key == "$ref" else _renamed(item, prefix)
        for key, item in value.items()
    }


def json_text(value: object) -> str:
    """Return a value as one line of JSON, with characters outside ASCII as they are."""
    return json.dumps(value, ensure_ascii=False)
