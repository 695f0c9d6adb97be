"""Arguments that a small model copies from the message."""

from __future__ import annotations

from typing import Any, Literal

import jsonschema
from langchain_core.tools import tool

from llms import ChatLocal
from llms.small import candidates, copied_arguments, limited_to_spans, numbers, spans


def test_spans_and_numbers() -> None:
    found = spans("Create a customer named '你好啊集团' in San Francisco, CA.")
    assert {"你好啊集团", "San Francisco, CA", "San Francisco"} <= set(found)
    assert numbers("Pay 1,200 or -3.5 for A4, f(3)") == [1200, -3.5, 3]


EMAIL: dict[str, Any] = {
    "name": "send_email",
    "description": "Send an email to a person",
    "parameters": {
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "subject": {"type": "string"},
            "copies": {"type": "integer"},
        },
        "required": ["to", "subject"],
    },
}


def test_arguments_are_spans_of_the_message_that_share_no_words(chat: ChatLocal) -> None:
    text = "Send Paul an email with subject Meeting moved."
    found = copied_arguments(chat.runtime(), "x", EMAIL, text)["properties"]
    to, subject = found["to"]["const"], found["subject"]["const"]
    assert to in text and subject in text and "email" not in (to, subject)
    assert text.index(to) + len(to) <= text.index(subject) or text.index(subject) + len(
        subject
    ) <= text.index(to)
    tool = {"type": "function", "function": EMAIL}
    call = chat.bind_tools([tool], tool_choice="send_email").invoke(text).tool_calls[0]
    assert call["args"]["to"] == "Paul" and call["args"]["subject"] == "Meeting moved"


def test_candidates_leave_numbers_to_arguments_that_are_numbers() -> None:
    schema: dict[str, Any] = {"properties": {"amount": {"type": "number"}, "source": {"type": "string"}}}
    assert candidates("50 dollars", schema) == ["dollars"]
    assert "Pier 39" in candidates("Pier 39 for 4", schema)
    assert candidates("a bcd", {}, {"minLength": 3}) == ["bcd", "a bcd"]
    assert limited_to_spans(schema, "50 dollars")["properties"]["amount"] == {"enum": [50]}


def test_an_enum_is_narrowed_to_what_the_message_names(chat: ChatLocal) -> None:
    unit = {"enum": ["celsius", "degrees_fahrenheit", "in"]}
    schema: dict[str, Any] = {"properties": {"unit": unit, "all": {"type": "array", "items": unit}}}
    maybe = {"anyOf": [unit, {"type": "null"}]}
    schema["properties"]["maybe"] = maybe
    found = limited_to_spans(schema, "Oslo in Degrees Fahrenheit, please")["properties"]
    said = {"enum": ["degrees_fahrenheit"]}
    assert (found["unit"], found["all"]["items"], found["maybe"]["anyOf"][0]) == (said, said, said)
    assert limited_to_spans(schema, "Oslo in June")["properties"]["unit"] == unit

    @tool
    def get_temperature(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
        """Get the current temperature in a city."""
        return city + unit

    model = chat.bind_tools([get_temperature], tool_choice="any")
    for name in ("celsius", "fahrenheit"):
        call = model.invoke(f"How warm is it in Oslo, in {name}?").tool_calls[0]
        assert call["args"] == {"city": "Oslo", "unit": name}


def test_an_optional_map_is_left_out_where_words_are_copied() -> None:
    free = {"type": "object", "additionalProperties": {"type": "string"}}
    properties: dict[str, Any] = {"a": free, "b": {"anyOf": [free, {"type": "null"}]}, "c": free}
    found = limited_to_spans({"type": "object", "properties": properties, "required": ["c"]}, "some words")
    assert set(found["properties"]) == {"c"}


def test_a_message_without_words_to_copy_is_written_freely(chat: ChatLocal) -> None:
    tool = {"type": "function", "function": EMAIL}
    call = chat.bind_tools([tool], tool_choice="send_email").invoke("?!", max_tokens=40).tool_calls[0]
    jsonschema.validate(call["args"], EMAIL["parameters"])
