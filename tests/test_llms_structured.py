"""All ways in which LangChain's users ask for a tool or a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from tool_samples import get_weather, set_timer

from llms import ChatLocal
from llms.errors import BadRequest


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("any", {"get_weather", "set_timer"}),
        ("required", {"get_weather", "set_timer"}),
        (True, {"get_weather", "set_timer"}),
        ("set_timer", {"set_timer"}),
        ({"type": "function", "function": {"name": "set_timer"}}, {"set_timer"}),
        ({"type": "tool", "name": "set_timer"}, {"set_timer"}),
        ("none", set()),
        (False, set()),
    ],
)
def test_every_form_of_tool_choice(chat: ChatLocal, choice: Any, names: set[str]) -> None:
    model = chat.bind_tools([get_weather, set_timer], tool_choice=choice, strict=True)
    called = {call["name"] for call in model.invoke("Oslo, 5", max_tokens=24).tool_calls}
    assert called <= names and bool(called) == bool(names)


def test_a_choice_that_names_no_tool_is_refused(chat: ChatLocal) -> None:
    for bad in ("nothing", {"type": "function", "function": {"name": "nothing"}}, 7):
        with pytest.raises(BadRequest, match="get_weather"):
            chat.bind_tools([get_weather], tool_choice=bad)


class Leaf(BaseModel):
    """A leaf of a tree."""

    kind: Literal["leaf"]
    weight: float = Field(ge=0, le=9)


class Node(BaseModel):
    """A tree."""

    kind: Literal["node"]
    label: str = Field(pattern="^[A-Z][a-z]{1,6}$")
    parts: list[Leaf | Node] = Field(max_length=2)
    note: str | None = None


class City(TypedDict):
    """A city."""

    name: Annotated[str, ..., "its name"]
    size: Literal["small", "large"]


CITY: dict[str, Any] = {
    "title": "city",
    "description": "A city.",
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "tags": {"enum": ["old", "new", None, 3]}},
    "required": ["name", "tags"],
}
TOOL = {"type": "function", "function": {"name": "city", "description": "A city.", "parameters": CITY}}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("include_raw", [False, True])
def test_every_form_of_schema(chat: ChatLocal, method: Any, include_raw: bool) -> None:
    for schema in (Node, City, CITY, TOOL):
        model = chat.with_structured_output(schema, method=method, include_raw=include_raw, strict=True)
        found = model.invoke("Lyon is an old, large city.", max_tokens=80)
        if include_raw:
            assert found["parsing_error"] is None and found["raw"].response_metadata["model_name"]
            found = found["parsed"]
        if schema is Node:
            assert isinstance(found, Node)  # pydantic has checked recursion, union, pattern and bounds
        else:
            assert isinstance(found, dict) and isinstance(found["name"], str)
            assert found.get("size", "small") in ("small", "large")
            assert found.get("tags", 3) in ("old", "new", None, 3)


async def test_schemas_in_streams_batches_and_async(chat: ChatLocal) -> None:
    model = chat.with_structured_output(City)
    asked = "Lyon is a large city."
    whole = await model.ainvoke(asked, max_tokens=40)
    assert list(model.stream(asked, max_tokens=40))[-1] == whole
    assert [part async for part in model.astream(asked, max_tokens=40)][-1] == whole
    assert await model.abatch([asked, asked], max_tokens=40) == [whole, whole]


def test_a_recursive_tool_keeps_its_recursion(chat: ChatLocal) -> None:
    """LangChain's own conversion replaces a recursive reference by `{}`, which allows any value."""

    @tool
    def plant(tree: Node) -> str:
        """Plant a tree."""
        return tree.label

    def grow(tree: Node) -> str:
        """Grow a tree."""
        return tree.label

    for source, name in ((plant, "plant"), (grow, "grow"), (Node, "Node")):
        bound = chat.bind_tools([source], tool_choice="any")
        (written,) = bound.kwargs["tools"]  # type: ignore[attr-defined]
        assert "#/$defs/Node" in str(written)
        (call,) = bound.invoke("An oak with one leaf of weight 3", max_tokens=80).tool_calls
        assert call["name"] == name
        Node.model_validate(call["args"] if name == "Node" else call["args"]["tree"])


def test_what_cannot_be_read_is_reported_beside_the_raw_answer(chat: ChatLocal) -> None:
    how: dict[str, Any] = {"method": "function_calling", "include_raw": True}
    found = chat.with_structured_output(Node, max_tokens=2, **how).invoke("A tree")  # No tree is that short.
    assert found["parsed"] is None
    assert found["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Leaf, City])
def test_an_answer_that_the_limit_cut_is_refused(chat: ChatLocal, schema: Any, method: Any) -> None:
    how: dict[str, Any] = {"method": method, "max_tokens": 3}
    with pytest.raises(OutputParserException, match="max_tokens"):
        chat.with_structured_output(schema, **how).invoke("A leaf")
    found = chat.with_structured_output(schema, include_raw=True, **how).invoke("A leaf")
    assert found["parsed"] is None and isinstance(found["parsing_error"], OutputParserException)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_schema_without_a_title_is_taken(chat: ChatLocal, method: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
    assert chat.with_structured_output(schema, method=method).invoke("One number")["a"] <= 9


def test_any_object_where_json_mode_has_no_schema(chat: ChatLocal) -> None:
    found = chat.with_structured_output(method="json_mode").invoke("Ada is 36.", max_tokens=60)
    assert isinstance(found, dict)
    for method in ("json_schema", "function_calling"):
        with pytest.raises(BadRequest, match="None"):
            chat.with_structured_output(None, method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["flat", "anthropic", "nested"])
def test_dictionaries_of_other_providers_are_tools(chat: ChatLocal, shape: str) -> None:
    function = {"name": "city", "description": "Describe a city.", "parameters": CITY}
    tools: dict[str, dict[str, Any]] = {
        "flat": {"type": "function", **function},
        "anthropic": {"name": "city", "description": "Describe a city.", "input_schema": CITY},
        "nested": {"type": "function", "function": function},
    }
    (call,) = chat.bind_tools([tools[shape]], tool_choice="any").invoke("Lyon, old").tool_calls
    assert (call["name"], call["args"]["name"]) == ("city", "Lyon")
