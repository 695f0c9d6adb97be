"""Tools, schemas, grammars and prompt formats."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from tool_samples import get_weather, set_timer

from llms import ChatLocal
from llms.chat_output import AnswerInfo
from llms.engine_request import Piece
from llms.engine_shared import Runtime
from llms.errors import BadRequest, UnsupportedSchema
from llms.grammar import JsonConstraint
from llms.grammar_schema import check_schema, prepared
from llms.prompts import PromptBuilder
from llms.tool_copy import copied_arguments
from llms.tool_format import GENERIC, MISTRAL, detect, parse_calls, short_id
from llms.tool_output import CallsTranslator
from llms.tool_plan import calls_grammar
from llms.tool_spans import candidates, limited_to_spans, numbers, spans

# A template of the shape that Mistral's has: no system role, strict alternation, nine-character ids.
MISTRAL_LIKE = """{%- set ns = namespace(n=0) -%}
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}
{%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) -%}
{%- if (m.role == 'user') != (ns.n % 2 == 0) -%}{{ raise_exception('must alternate') }}{%- endif -%}
{%- set ns.n = ns.n + 1 -%}{%- endif -%}
{%- if m.role == 'user' -%}
{%- if tools is not none and loop.last -%}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{%- endif -%}
[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls is defined -%}
[TOOL_CALLS][{% for c in m.tool_calls %}{{ c.function | tojson }}{{ c.id }}{% endfor %}]
{%- if m.tool_calls[0].id | length != 9 -%}{{ raise_exception('id') }}{%- endif -%}
{%- elif m.role == 'tool' -%}[TOOL_RESULTS]{{ m.content }}{{ m.tool_call_id }}[/TOOL_RESULTS]
{%- else -%}{{ m.content }}{{ eos_token }}{%- endif -%}
{%- endfor -%}"""


@pytest.fixture
def mistral_prompts(embedded: Any) -> PromptBuilder:
    import copy

    tokenizer = copy.copy(embedded.tokenizer)
    tokenizer.chat_template = MISTRAL_LIKE
    return PromptBuilder(tokenizer)


def test_a_call_streams_and_holds_what_the_message_says(chat: ChatLocal) -> None:
    model = chat.bind_tools([get_weather, set_timer], tool_choice="any")
    chunks = list(model.stream("Set a timer for 25 minutes."))
    parts = [p for c in chunks for p in getattr(c, "tool_call_chunks", [])]
    assert parts[0]["name"] == "set_timer" and len(parts) > 2
    assert json.loads("".join(p["args"] or "" for p in parts)) == {"minutes": 25}
    assert chunks[-1].response_metadata["finish_reason"] == "tool_calls"


def test_tool_choice_decides(chat: ChatLocal) -> None:
    none = chat.bind_tools([get_weather], tool_choice="none").invoke("Weather in Oslo?", max_tokens=4)
    assert not none.tool_calls and none.text
    named = chat.bind_tools([get_weather, set_timer], tool_choice="get_weather").invoke("Oslo")
    assert [(c["name"], c["args"]) for c in named.tool_calls] == [("get_weather", {"location": "Oslo"})]
    with pytest.raises(BadRequest, match="no_such"):
        chat.bind_tools([get_weather], tool_choice="no_such")


def test_a_tool_scorer_takes_part(chat: ChatLocal) -> None:
    seen: list[int] = []

    def scorer(message: str, descriptions: Any) -> list[float]:
        seen.append(len(descriptions))
        return [1.0 if "timer" in d else -1.0 for d in descriptions]

    model = chat.model_copy(update={"tool_scorer": scorer}).bind_tools(
        [get_weather, set_timer], tool_choice="any"
    )
    assert model.invoke("Oslo 5").tool_calls[0]["name"] == "set_timer" and seen == [2]


def asked(*results: ToolMessage) -> list[BaseMessage]:
    """A question, and the calls that gave these results."""
    history: list[BaseMessage] = [HumanMessage("Is it sunny in Oslo, and how warm?")]
    for result in results:
        call = {"name": "get_weather", "args": {"location": "Oslo"}, "id": "call-1", "type": "tool_call"}
        history += [AIMessage("", tool_calls=[call]), result]
    return history


def test_no_second_call_after_a_tool_answered(chat: ChatLocal) -> None:
    model = chat.bind_tools([get_weather, set_timer])
    sunny = ToolMessage("It is sunny.", tool_call_id="call-1")
    answer = model.invoke(asked(sunny), max_tokens=8)
    assert not answer.tool_calls and answer.text
    again = model.invoke([*asked(sunny), AIMessage("Sunny."), HumanMessage("And the weather in Rome?")])
    assert [(c["name"], c["args"]) for c in again.tool_calls] == [("get_weather", {"location": "Rome"})]


def test_an_error_of_a_tool_is_retried_once(chat: ChatLocal) -> None:
    model = chat.bind_tools([get_weather, set_timer])
    failed = ToolMessage("timed out", tool_call_id="call-1", status="error")
    assert [c["name"] for c in model.invoke(asked(failed)).tool_calls] == ["get_weather"]
    for results in ((failed, failed), (failed, ToolMessage("It is sunny.", tool_call_id="call-1"))):
        answer = model.invoke(asked(*results), max_tokens=8)
        assert not answer.tool_calls and answer.text


def test_the_model_decides_whether_to_call(chat: ChatLocal) -> None:
    model = chat.bind_tools([get_weather, set_timer])
    for message, name in (
        ("What is the weather in Madrid?", "get_weather"),
        ("Start a timer of 10 minutes.", "set_timer"),
        ("Who wrote Hamlet?", None),
        ("Give me advice on learning Spanish.", None),
        ("Translate good morning into French.", None),
    ):
        calls = model.invoke(message, max_tokens=16).tool_calls
        assert [c["name"] for c in calls] == ([name] if name else []), message


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


def test_mistrals_format_through_its_kind_of_template(mistral_prompts: PromptBuilder) -> None:
    assert mistral_prompts.tool_format is MISTRAL
    call = {
        "name": "get_weather",
        "args": {"location": "Oslo"},
        "id": "call_very_long_id",
        "type": "tool_call",
    }
    text = mistral_prompts.render(
        [
            SystemMessage("Be brief."),
            HumanMessage("a"),
            HumanMessage("b"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("sunny", tool_call_id="call_very_long_id"),
        ],
        [],
    )
    assert "Be brief.\n\na\n\nb" in text and text.count(short_id("call_very_long_id")) == 2
    assert "[AVAILABLE_TOOLS]" in mistral_prompts.render([HumanMessage("x")], [{"function": {"name": "t"}}])
    assert short_id("abcdefghi") == "abcdefghi" and len(short_id("x")) == 9


def answer_info() -> AnswerInfo:
    return AnswerInfo(model_name="m", input_tokens=1, cached_tokens=0, token_text=str)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_written_calls_stream_in_any_pieces(size: int) -> None:
    text = 'Sure. [TOOL_CALLS][{"name": "a", "arguments": {"x": "}]\\""}}, {"name": "b", "arguments": {}}]'
    pieces = [Piece(text[i : i + size], (1,)) for i in range(0, len(text), size)]
    pieces.append(Piece("", (2,), (), "stop"))
    message = CallsTranslator(MISTRAL, opened=False).collect(answer_info(), pieces).message
    assert isinstance(message, AIMessage) and message.text.strip() == "Sure."
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("a", {"x": '}]"'}), ("b", {})]
    parsed = parse_calls(MISTRAL, text)
    assert parsed is not None and [c["name"] for c in parsed[1]] == ["a", "b"]


def test_a_call_cut_by_the_limit_is_reported_not_dropped() -> None:
    pieces = [Piece('[{"name": "a", "arguments": {"x": "hal', (1,), (), "length")]
    message = CallsTranslator(MISTRAL, opened=True).collect(answer_info(), pieces).message
    assert isinstance(message, AIMessage) and not message.tool_calls
    assert message.invalid_tool_calls[0]["name"] == "a"


@pytest.mark.parametrize("form", [MISTRAL, GENERIC])
def test_the_grammar_of_written_calls_takes_what_the_format_writes(chat: ChatLocal, form: Any) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/N"}},
        "required": ["x"],
        "$defs": {"N": {"type": "integer"}},
    }
    tools: list[Any] = [{"function": {"name": "a", "parameters": parameters}}, {"function": {"name": "b"}}]
    runtime = chat.runtime()
    one, two = '{"name": "a", "arguments": {"x": 3}}', '{"name": "b", "arguments": {}}'
    texts = {
        "mistral": f"[{one}, {two}]",
        "generic": f"\n{one}\n</tool_call>\n<tool_call>\n{two}\n</tool_call>",
    }
    constraint: JsonConstraint = runtime.grammars.lark(calls_grammar(form, tools, parallel=True))
    for token in runtime.encode(texts[form.name], special=False):
        assert constraint.mask(100)[token]
        done = constraint.accept(token)
    assert done or bool(constraint.mask(100)[sorted(runtime.end_ids)[0]])
    wrong = runtime.grammars.lark(calls_grammar(form, tools, parallel=True))
    ids = runtime.encode(texts[form.name].replace('"a"', '"c"'), special=False)
    with pytest.raises(UnsupportedSchema):
        for token in ids:
            wrong.accept(token)


def test_a_larger_model_writes_its_calls_itself(chat: ChatLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "small", False)
    must = chat.bind_tools([get_weather, set_timer], tool_choice="any", parallel_tool_calls=False)
    asked = "Set a timer of 5 minutes."
    whole = must.invoke(asked)
    assert len(whole.tool_calls) == 1 and not whole.invalid_tool_calls
    expected = {"get_weather": {"location"}, "set_timer": {"minutes"}}[whole.tool_calls[0]["name"]]
    assert set(whole.tool_calls[0]["args"]) == expected
    merged = functools.reduce(operator.add, must.stream(asked))
    assert [(c["name"], c["args"]) for c in merged.tool_calls] == [
        (c["name"], c["args"]) for c in whole.tool_calls
    ]
    free = chat.bind_tools([get_weather]).invoke("Who wrote Hamlet?", max_tokens=12)
    assert free.text or free.tool_calls
    told = ToolMessage("It is sunny.", tool_call_id="call-1")
    assert chat.bind_tools([get_weather]).invoke(asked_twice(told), max_tokens=8).text


def asked_twice(result: ToolMessage) -> list[BaseMessage]:
    return [*asked(result), HumanMessage("And tomorrow?")]


def test_detecting_the_format() -> None:
    assert detect("... [TOOL_CALLS] ...") is MISTRAL and detect("plain") is GENERIC


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


def test_the_cases_file_is_whole() -> None:
    folder = Path(__file__).parent / "data"
    tools = json.loads((folder / "tool_cases_tools.json").read_text())
    cases = [json.loads(line) for line in (folder / "tool_cases.jsonl").read_text().splitlines()]
    assert len({c["id"] for c in cases}) == 100
    for case in cases:
        assert case["tool"] in case["offered"]
        jsonschema.validate(case["args"], tools[case["tool"]]["function"]["parameters"])
