"""A message that asks for several things gets one call for each of them."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from tool_samples import get_weather, set_timer

from llms import ChatLocal
from llms.engine.request import Piece
from llms.output import AnswerInfo
from llms.tool_calls.format import MISTRAL
from llms.tool_calls.output import CallsTranslator
from llms.tool_calls.plan import arguments_grammar

TWO_THINGS = "Show me the weather in Lisbon, and start a timer of 20 minutes."
BOTH = [("get_weather", {"location": "Lisbon"}), ("set_timer", {"minutes": 20})]


@pytest.mark.parametrize("choice", ["auto", "any"])
def test_a_message_that_asks_for_two_things_gets_two_calls(chat: ChatLocal, choice: str) -> None:
    model = chat.bind_tools([get_weather, set_timer], tool_choice=choice)
    whole = model.invoke(TWO_THINGS)
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == BOTH
    assert whole.text == "" and whole.response_metadata["finish_reason"] == "tool_calls"
    assert len({c["id"] for c in whole.tool_calls}) == 2
    chunks = list(model.stream(TWO_THINGS))
    merged = functools.reduce(operator.add, chunks)
    assert [(c["name"], c["args"]) for c in merged.tool_calls] == BOTH and len(chunks) > 4
    results = [ToolMessage("Done.", tool_call_id=c["id"]) for c in whole.tool_calls]
    assert not model.invoke([HumanMessage(TWO_THINGS), whole, *results], max_tokens=8).tool_calls


def test_one_call_where_several_are_not_wanted(chat: ChatLocal) -> None:
    tools = [get_weather, set_timer]
    single = chat.bind_tools(tools, parallel_tool_calls=False, tool_choice="any").invoke(TWO_THINGS)
    assert len(single.tool_calls) == 1
    named = chat.bind_tools(tools, tool_choice="set_timer").invoke(TWO_THINGS)
    assert [c["name"] for c in named.tool_calls] == ["set_timer"]
    for message in (
        "Show me the weather in Trinidad and Tobago.",
        "Start a timer of 9 minutes and no longer.",
    ):
        assert len(chat.bind_tools(tools).invoke(message).tool_calls) == 1, message


def test_two_calls_in_mistrals_format(chat: ChatLocal) -> None:
    runtime = chat.runtime()
    parts = [(convert_to_openai_tool(t), part) for t, part in ((get_weather, "Lisbon"), (set_timer, "20"))]
    schemas = [t["function"]["parameters"] for t, _ in parts]
    constraint = runtime.grammars.lark(arguments_grammar(MISTRAL, [t for t, _ in parts], schemas))
    rest = '{"location": "Lisbon"}}, {"name": "set_timer", "arguments": {"minutes": 20}'
    done = [constraint.accept(token) for token in runtime.encode(rest, special=False)]
    assert done == [False] * (len(done) - 1) + [True]
    info = AnswerInfo(model_name="m", input_tokens=1, cached_tokens=0, token_text=str)
    begun = '[{"name": "get_weather", "arguments": '
    pieces = [Piece(rest[i : i + 5], (1,)) for i in range(0, len(rest), 5)] + [Piece("", (2,), (), "stop")]
    message = CallsTranslator(MISTRAL, opened=True, begun=begun).collect(info, pieces).message
    assert [(c["name"], c["args"]) for c in message.tool_calls] == BOTH  # type: ignore[attr-defined]


def test_three_requests_get_three_calls(chat: ChatLocal) -> None:
    @tool
    def search_flights(origin: str, destination: str) -> str:
        """Find flights between two cities."""
        return "none"

    model = chat.bind_tools([get_weather, set_timer, search_flights], tool_choice="any")
    answer = model.invoke(
        "Show me the weather in Rome. Start a timer of 20 minutes, then find flights from Oslo to Rome.",
        max_tokens=96,
    )
    assert [c["name"] for c in answer.tool_calls] == ["get_weather", "set_timer", "search_flights"]
    assert answer.tool_calls[2]["args"] == {"origin": "Oslo", "destination": "Rome"}


def test_calls_that_do_not_fit_the_limit_are_reported(chat: ChatLocal) -> None:
    answer = chat.bind_tools([get_weather, set_timer], tool_choice="any").invoke(TWO_THINGS, max_tokens=8)
    assert answer.response_metadata["finish_reason"] == "length"
    assert len(answer.tool_calls) < 2


def test_the_messages_that_it_was_tuned_on_are_whole() -> None:
    folder = Path(__file__).parent / "data"
    tools = json.loads((folder / "tool_cases_tools.json").read_text())
    cases = [json.loads(line) for line in (folder / "two_requests.jsonl").read_text().splitlines()]
    assert len({case["id"] for case in cases}) == 44 == len({case["message"] for case in cases})
    for case in cases:
        assert set(case["calls"]) <= set(case["offered"]) <= set(tools)
        assert len(case["calls"]) == (2 if case["id"].startswith("two") else 1)
