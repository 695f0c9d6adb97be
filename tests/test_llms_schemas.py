"""Output schemas: keywords that are enforced, keywords that are refused by name, and token budgets."""

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from llms import ChatLocal
from llms.errors import BadRequest, UnsupportedSchema
from llms.grammar.schema import check_schema, prepared


class Item(BaseModel):
    name: str = Field(max_length=12)
    kind: Literal["fruit", "tool"]
    count: int = Field(ge=1, le=9)
    note: str | None = None


def test_structured_output_is_valid_even_at_the_budget(chat: ChatLocal) -> None:
    for method in ("json_schema", "function_calling", "json_mode"):
        model = chat.with_structured_output(Item, method=method, include_raw=True)
        result = model.invoke("Describe three red apples.")
        assert isinstance(result["parsed"], Item) and result["parsing_error"] is None
    schema = {
        "type": "object",
        "properties": {"story": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["story", "tags"],
    }
    for budget in (12, 24):
        bound = chat.bind(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
        answer = bound.invoke("Tell me a long story.", max_tokens=budget)
        jsonschema.validate(json.loads(answer.text), schema)
        assert answer.response_metadata["finish_reason"] == "stop"


def test_any_json_object(chat: ChatLocal) -> None:
    bound = chat.bind(response_format={"type": "json_object"})
    assert isinstance(json.loads(bound.invoke("A person as JSON", max_tokens=24).text), dict)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}, "if"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "no-such-format"}, "no-such-format"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    ],
)
def test_what_cannot_be_enforced_is_refused_when_bound(
    chat: ChatLocal, schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(UnsupportedSchema, match=keyword):
        check_schema(schema, "it")
    with pytest.raises(UnsupportedSchema, match=keyword):
        chat.with_structured_output({"title": "x", "description": "x", **schema})
    parameters = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(UnsupportedSchema, match="tool 'x'"):
        chat.bind_tools([{"type": "function", "function": {"name": "x", "parameters": parameters}}])


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (7, BadRequest),
        ({"foo": 1}, BadRequest),
        ({"type": "function", "function": {"parameters": {"type": "object"}}}, BadRequest),
        ({"type": "function", "function": {"name": "x", "parameters": {"type": "strin"}}}, UnsupportedSchema),
        (
            {"type": "function", "function": {"name": "x", "parameters": {"properties": {"a": 5}}}},
            UnsupportedSchema,
        ),
    ],
)
def test_a_wrong_tool_is_named_where_it_is_bound_and_where_it_is_passed(
    chat: ChatLocal, bad: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"7|foo|parameters|strin|found 5"):
        chat.bind_tools([bad])
    with pytest.raises(error):
        chat.invoke("Hi", tools=[bad])


def test_prepared_schemas_are_closed_and_bounded() -> None:
    ready = prepared({"type": "object", "title": "T", "properties": {"a": {"type": "integer", "minimum": 3}}})
    assert ready["additionalProperties"] is False and "title" not in ready
    assert ready["properties"]["a"]["minimum"] == 3 and ready["properties"]["a"]["maximum"] > 3
    both = prepared({"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]})
    assert "additionalProperties" not in both["allOf"][0]
