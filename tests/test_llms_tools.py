"""Tool calls: the decision to make one, the choice of the tool, and conversations with results."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from tool_samples import get_weather, set_timer

from llms import ChatLocal
from llms.errors import BadRequest
from llms.runtime import Runtime


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


class TimerPicker:
    """Picks the timer if it has to, and otherwise none."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def pick(self, message: str, tools: Any, *, must: bool = False) -> str | None:
        self.seen.append(len(tools))
        return "set_timer" if must else None


def test_a_tool_picker_takes_part(chat: ChatLocal) -> None:
    picker = TimerPicker()
    model = chat.model_copy(update={"tool_picker": picker})
    called = model.bind_tools([get_weather, set_timer], tool_choice="any").invoke("Oslo 5")
    assert called.tool_calls[0]["name"] == "set_timer" and picker.seen == [2]
    answered = model.bind_tools([get_weather, set_timer]).invoke("Weather in Oslo?", max_tokens=4)
    assert not answered.tool_calls and answered.text


def asked(*results: ToolMessage) -> list[BaseMessage]:
    """Return a question, followed by calls with these results."""
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


def test_the_cases_file_is_whole() -> None:
    folder = Path(__file__).parent / "data"
    tools = json.loads((folder / "tool_cases_tools.json").read_text())
    cases = [json.loads(line) for line in (folder / "tool_cases.jsonl").read_text().splitlines()]
    assert len({c["id"] for c in cases}) == 100
    for case in cases:
        assert case["tool"] in case["offered"]
        jsonschema.validate(case["args"], tools[case["tool"]]["function"]["parameters"])
