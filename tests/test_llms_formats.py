"""Types of pydantic: answers are valid for each of them, or the type is refused when it is bound."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NotRequired

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.tools import StructuredTool, tool
from pydantic import UUID4, BaseModel, HttpUrl, IPvAnyAddress, RootModel, SecretStr, TypeAdapter
from typing_extensions import TypedDict

from llms import ChatLocal
from llms.errors import BadRequest, UnsupportedSchema
from llms.grammar.schema import PATTERNS, WEB_ADDRESS, check_schema, prepared, with_pattern


class Colour(Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Visit(BaseModel):
    """A visit."""

    day: dt.date
    at: dt.datetime
    clock: dt.time
    lasts: dt.timedelta
    ident: uuid.UUID
    draw: UUID4
    page: HttpUrl
    folder: Path
    password: SecretStr
    raw: bytes
    colours: set[Colour]
    counts: dict[Colour, int]
    pair: tuple[int, Literal["a", "b"]]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_every_type_is_written_so_that_pydantic_takes_it(chat: ChatLocal, temperature: float) -> None:
    """Otherwise there are endless digits, 30 February, "Tom-1:2" as an address, or a key "no colour"."""
    model = chat.with_structured_output(Visit, temperature=temperature, seed=5)
    visit = model.invoke("Tom came on 2024-02-30, 5 euro, red.", max_tokens=420)
    assert isinstance(visit, Visit) and set(visit.counts) <= set(Colour)


READERS: dict[str, Any] = {
    "date": dt.date,
    "time": dt.time,
    "date-time": dt.datetime,
    "duration": dt.timedelta,
    "uuid4": UUID4,
}


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_a_pattern_writes_is_read(kind: str, data: st.DataObject) -> None:
    TypeAdapter(READERS[kind]).validate_json(f'"{data.draw(st.from_regex(PATTERNS[kind], fullmatch=True))}"')


@given(st.from_regex(re.compile(WEB_ADDRESS, re.ASCII), fullmatch=True))
@settings(max_examples=60, deadline=None)
def test_web_addresses_are_read(address: str) -> None:
    TypeAdapter(HttpUrl).validate_python(address)


@given(st.dates(dt.date(1000, 1, 1)))
def test_every_day_can_be_written(day: dt.date) -> None:
    assert re.fullmatch(PATTERNS["date"], day.isoformat())


def test_formats_that_are_only_notes_go_and_the_others_stay() -> None:
    assert with_pattern({"type": "string", "format": "password"}) == {"type": "string"}
    assert with_pattern({"format": "date", "pattern": "^2"}) == {"format": "date", "pattern": "^2"}
    assert with_pattern({"format": "uri"}) == {"format": "uri"}  # Any scheme is allowed.
    assert prepared({"type": "string", "format": "color", "x-order": 3, "x-mine": 1}) == {"type": "string"}
    for kind in ("regex", "ipvanyaddress", "uri-template"):
        with pytest.raises(UnsupportedSchema, match=kind):
            check_schema({"type": "string", "format": kind}, "it")


def test_maps_of_listed_keys_and_tuples_that_end() -> None:
    listed = {
        "type": "object",
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": {"type": "null"},
    }
    ready = prepared(listed)
    assert set(ready["properties"]) == {"a", "b"} and ready["additionalProperties"] is False
    assert "propertyNames" not in ready
    ended = prepared({"type": "array", "prefixItems": [{"type": "null"}], "items": False})
    assert ended["maxItems"] == 1 and "items" not in ended
    for bad in ({"propertyNames": {"pattern": "^a"}}, {"propertyNames": {"enum": ["a"]}, "properties": {}}):
        with pytest.raises(UnsupportedSchema, match="propertyNames"):
            check_schema(bad, "it")
    with pytest.raises(UnsupportedSchema, match="false"):
        check_schema({"type": "array", "items": False}, "it")


def test_sets_are_lists_where_pydantic_reads_them_and_refused_elsewhere(chat: ChatLocal) -> None:
    @tool
    def paint(colours: set[str]) -> str:
        """Paint in some colours."""
        return str(colours)

    def mix(colours: set[str]) -> str:
        """Mix colours."""
        return str(colours)

    bound = chat.bind_tools([paint, mix])
    assert "uniqueItems" not in str(bound.kwargs["tools"])  # type: ignore[attr-defined]
    (call,) = chat.bind_tools([paint], tool_choice="any").invoke("Paint it red, red and blue").tool_calls
    assert paint.invoke(call["args"]).startswith("{")
    schema = {"type": "object", "properties": {"c": {"type": "array", "uniqueItems": True}}}
    foreign = StructuredTool.from_function(mix, args_schema=schema)
    for other in (foreign, {"name": "mix", "description": "Mix.", "parameters": schema}):
        with pytest.raises(UnsupportedSchema, match="uniqueItems"):
            chat.bind_tools([other])


def test_what_is_no_schema_or_no_object_is_named(chat: ChatLocal) -> None:
    class Numbers(RootModel[list[int]]):
        """Numbers."""

    class Film(TypedDict):
        """A film."""

        title: str
        year: NotRequired[int]

    class Reach(BaseModel):
        """Reach an address."""

        address: IPvAnyAddress

    with pytest.raises(BadRequest, match="'array'"):
        chat.with_structured_output(Numbers, method="function_calling")
    assert isinstance(chat.with_structured_output(Numbers).invoke("One, two", max_tokens=30), Numbers)
    with pytest.raises(BadRequest, match="Annotated"):
        chat.with_structured_output(Film)
    with pytest.raises(UnsupportedSchema, match="ipvanyaddress"):
        chat.bind_tools([Reach])


def test_a_response_format_may_be_a_class_or_plain_text(chat: ChatLocal) -> None:
    class Sum(BaseModel):
        """A sum."""

        total: int

    assert Sum.model_validate_json(chat.bind(response_format=Sum).invoke("Two and two", max_tokens=30).text)
    plain = chat.bind(response_format={"type": "text"}).invoke("What is the capital of France?")
    assert "Paris" in plain.text
