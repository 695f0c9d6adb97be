"""ChatLocal in LangChain's own agents: tools first, then an answer, in text or under a schema."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from llms import ChatLocal
from llms.engine.request import Piece
from llms.output import AnswerInfo
from llms.runtime import Runtime
from llms.small import last_turn
from llms.tool_calls.output import UntaggedTranslator

ASKED = HumanMessage("What is the weather in Paris?")


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


class Report(BaseModel):
    """Report the weather to the user."""

    city: str
    sunny: bool


def conversation(agent: Any) -> dict[str, Any]:
    found: dict[str, Any] = agent.invoke({"messages": [ASKED]}, {"recursion_limit": 9})
    return found


def calls(messages: list[BaseMessage]) -> list[str]:
    return [call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]


def test_an_agent_calls_once_and_answers_without_the_tags_of_the_result(chat: ChatLocal) -> None:
    messages = conversation(create_agent(chat, [get_weather]))["messages"]
    assert calls(messages) == ["get_weather"]
    assert "21 degrees" in messages[-1].text and "tool_response" not in messages[-1].text
    streamed = [chunk.text for chunk in chat.bind_tools([get_weather]).stream(messages[:-1])]
    assert "".join(streamed) == messages[-1].text


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_an_agent_with_a_schema_asks_its_tools_before_it_fills_it(chat: ChatLocal, strategy: Any) -> None:
    """With a tool for the schema, each answer must call a tool. One that has answered is not called again."""
    found = conversation(create_agent(chat, [get_weather], response_format=strategy(Report)))
    assert calls(found["messages"])[0] == "get_weather"
    assert calls(found["messages"]).count("get_weather") == 1
    assert found["structured_response"] == Report(city="Paris", sunny=True)


def test_a_larger_model_weighs_a_call_against_json(chat: ChatLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "small", False)
    form = {"type": "json_schema", "json_schema": {"schema": Report.model_json_schema()}}
    model = chat.bind_tools([get_weather], response_format=form)
    prompts: list[Any] = []
    engine = chat.runtime().engine
    for call, value in ((-1.0, -2.0), (-2.0, -1.0)):
        monkeypatch.setattr(engine, "score", lambda items, a=call, b=value: prompts.append(items) or [[a, b]])
        answer = model.invoke([ASKED])
        assert bool(answer.tool_calls) == (call > value)
        if not answer.tool_calls:
            Report.model_validate_json(answer.text)
    assert len(prompts) == 2


def test_a_turn_is_what_followed_the_last_question() -> None:
    call = {"name": "get_weather", "args": {}, "id": "1", "type": "tool_call"}
    other = {"name": "look", "args": {}, "id": "2", "type": "tool_call"}
    good, bad = ToolMessage("sunny", tool_call_id="1"), ToolMessage("no", tool_call_id="2", status="error")
    both = AIMessage("", tool_calls=[call, other])
    turn = last_turn([HumanMessage("old"), both, good, ASKED, both, good, bad])
    assert (turn.question, turn.answers, turn.answered_by) == (ASKED.text, ("sunny",), {"get_weather"})
    assert not turn.over and turn.failures == 1 and turn.text == f"{ASKED.text}\nsunny"
    assert last_turn([ASKED, both, bad, good]).over and last_turn([ASKED, both, bad, both, bad]).over
    assert not last_turn([ASKED]).over and last_turn([AIMessage("x")]).question == "x"


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<tool_response>\nIt is sunny.", "It is sunny."),
        ("<tool_response>", ""),
        ("<tool_response>It is", "It is"),
        ("<tool> is", "<tool> is"),
        ("Sunny <tool_response>", "Sunny <tool_response>"),
        ("<", "<"),
    ],
)
def test_a_copied_tag_is_left_out_in_any_pieces(text: str, shown: str, size: int) -> None:
    info = AnswerInfo(model_name="m", input_tokens=1, cached_tokens=0, token_text=str)
    pieces = [Piece(text[i : i + size], (1,)) for i in range(0, len(text), size)] + [
        Piece("", (2,), (), "stop")
    ]
    assert UntaggedTranslator().collect(info, pieces).text == shown
    translator = UntaggedTranslator()
    chunks = [chunk for piece in pieces for chunk in translator.feed(info, piece)]
    assert "".join(chunk.text for chunk in chunks) == shown
    assert chunks[-1].message.usage_metadata["output_tokens"] == len(pieces)  # type: ignore[attr-defined]


def test_a_result_without_text_is_not_answered_in_tags(chat: ChatLocal) -> None:
    asked = AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Oslo"}, "id": "toolu_01"}])
    for nothing in ("", [], " \n"):
        answer = chat.invoke([ASKED, asked, ToolMessage(nothing, tool_call_id="toolu_01")], max_tokens=40)
        assert answer.text and "tool_response" not in answer.text


def test_langchain_knows_what_the_model_can_do(chat: ChatLocal, embedded: Any) -> None:
    """`create_agent` chooses the schema's own strategy, and summaries can be due at a share of the window."""
    assert chat.profile is not None
    assert (chat.profile["structured_output"], chat.profile["max_input_tokens"]) == (True, 8192)
    assert ChatLocal(model="mistral-7b", window=512).profile["max_input_tokens"] == 512  # type: ignore[index]
    assert "max_input_tokens" not in ChatLocal(model="./somewhere").profile  # type: ignore[operator]
    wrapped = ChatLocal.from_model(embedded.model, embedded.tokenizer, window=300)
    assert wrapped.profile["max_input_tokens"] == 300  # type: ignore[index]
    shorter = SummarizationMiddleware(chat, trigger=("fraction", 0.5), keep=("messages", 2))
    found = conversation(create_agent(chat, [get_weather], response_format=Report, middleware=[shorter]))
    assert calls(found["messages"]) == ["get_weather"]
    assert found["structured_response"] == Report(city="Paris", sunny=True)
