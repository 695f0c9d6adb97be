"""Turns with tools: approval through interrupts, limits, tools that misbehave."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest
from agent_fakes import CONFIG, calls, last, resume, scripted
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError

from agent.guard.policy import rule_of
from agent.storage.threads import ThreadSerializer
from agent.turn.bounds import TurnLimits
from agent.turn.context import RunContext
from agent.turn.events import Approval, Notice, ToolResult, astream_events, stream_events
from agent.turn.graph import build_graph
from chains.rag import Answer, Citation

ACTS: list[str] = []


@tool
def act(what: str) -> str:
    """Acts on something."""
    ACTS.append(what)
    return f"did {what}"


@tool
def look(where: str) -> str:
    """Looks somewhere."""
    return f"saw {where}"


look.metadata = {"kind": "read", "reaches": "machine"}


@pytest.fixture(autouse=True)
def no_acts() -> None:
    ACTS.clear()


def graph(*answers: Any, tools: Any = (act, look), **options: Any) -> Any:
    return build_graph(scripted(*answers), tools=list(tools), **options)


def test_without_a_checkpointer_acting_is_denied_with_the_way_out() -> None:
    final = last(events := list(stream_events(graph(calls("act", what="x"), "sorry"), "do x")))
    assert ACTS == [] and final.text == "sorry"
    result = next(event for event in events if isinstance(event, ToolResult))
    assert result.status == "error" and result.text == "act was not called: it needs a person's approval."
    denied = next(event for event in events if isinstance(event, Notice) and event.kind == "denied")
    assert "what: x" in denied.text
    assert not any(
        "--approve" in getattr(event, "text", "") for event in events
    )  # T17: not a terminal's words


def test_never_ask_acts_and_reading_needs_no_approval() -> None:
    events = list(stream_events(graph(calls("act", what="x"), "done", approve="never-ask"), "do x"))
    assert ACTS == ["x"] and last(events).text == "done"
    assert last(list(stream_events(graph(calls("look", where="y"), "seen"), "look"))).text == "seen"


def test_the_context_of_a_run_overrides_the_setting() -> None:
    agent = graph(calls("act", what="x"), "no", approve="never-ask")
    list(stream_events(agent, "do x", context=RunContext(approve="deny")))
    assert ACTS == []


def ask_first(*answers: Any) -> tuple[Any, Approval]:
    agent = graph(*answers, checkpointer=InMemorySaver())
    events = list(stream_events(agent, "do x", config=CONFIG))
    assert ACTS == [] and isinstance(events[-1], Approval)
    return agent, events[-1]


def test_approval_shows_what_will_happen_and_then_it_does() -> None:
    agent, pause = ask_first(calls("act", what="x"), "done")
    assert "what: x" in pause.requests[0]["description"]
    assert resume(agent, pause, {"type": "approve"}).text == "done"
    assert ACTS == ["x"]


def test_rejection_and_edit() -> None:
    agent, pause = ask_first(calls("act", what="x"), "as you like")
    assert resume(agent, pause, {"type": "reject", "message": "no"}).text == "as you like"
    assert ACTS == []
    agent, pause = ask_first(calls("act", what="x"), "done")
    resume(agent, pause, {"type": "edit", "edited_action": {"name": "act", "args": {"what": "y"}}})
    assert ACTS == ["y"]


def test_always_holds_for_the_thread_until_untrusted_text_comes() -> None:
    agent, pause = ask_first(
        calls("act", what="x"), "done", calls("act", "c2", what="y"), "again",
        calls("look", "c3", where="z"), "seen", calls("act", "c4", what="w"), "end",
    )  # fmt: skip
    resume(agent, pause, {"type": "approve", "always": "clean"})
    assert ACTS == ["x"]
    # The result of `act` is tool text, so from here on even an allowed tool asks.
    events = list(stream_events(agent, "do y", config=CONFIG))
    assert isinstance(events[-1], Approval) and ACTS == ["x"]


def test_always_skips_the_question_while_the_context_is_clean() -> None:
    agent = graph(calls("act", what="x"), "done", checkpointer=InMemorySaver())
    state = {"messages": [("user", "do x")], "allowed_tools": [rule_of(act).grant("clean")]}
    assert last(list(stream_events(agent, state, config=CONFIG))).text == "done"
    assert ACTS == ["x"]


async def test_async_approval() -> None:
    agent = graph(calls("act", what="x"), "done", checkpointer=InMemorySaver())
    events = [event async for event in astream_events(agent, "do x", config=CONFIG)]
    assert isinstance(events[-1], Approval)
    command = Command(resume={events[-1].id: {"type": "approve"}})
    events = [event async for event in astream_events(agent, command, config=CONFIG)]
    assert last(events).text == "done" and ACTS == ["x"]


def misbehaving(make: Any) -> BaseTool:
    @tool
    def bad(x: str) -> Any:
        """Misbehaves."""
        return make()

    bad.metadata = {"kind": "read", "reaches": "machine"}
    return bad


def boom() -> None:
    raise ValueError("no\x1b[31m such thing: password=hunter2")


def told() -> None:
    raise ToolException("no\x1b[31m such thing")


@pytest.mark.parametrize(
    ("make", "status", "said"),
    [
        (boom, "error", "bad failed: ValueError"),
        (told, "error", "bad failed: ToolException: no[31m such thing"),
        (lambda: "x" * 50_000_000, "success", "more characters]"),
        (lambda: b"\x00\xff", "success", ""),
        (lambda: None, "success", ""),
        (lambda: "a\x1b]8;;http://x\x07b\x9bc", "success", "a]8;;http://xbc"),
        (lambda: time.sleep(20), "error", "no answer within 0.3 s"),
    ],
)
def test_a_tool_that_misbehaves_is_told_to_the_model(make: Any, status: str, said: str) -> None:
    limits = TurnLimits(tool_seconds=0.3, tool_chars=1000)
    started = time.monotonic()
    agent = graph(calls("bad", x="1"), "I see", tools=[misbehaving(make)], limits=limits)
    events = list(stream_events(agent, "go"))
    result = next(event for event in events if isinstance(event, ToolResult))
    assert (result.status, said in result.text, len(result.text) < 1100) == (status, True, True)
    assert last(events).text == "I see" and time.monotonic() - started < 10


async def test_a_tool_that_hangs_in_an_asynchronous_run() -> None:
    import asyncio

    @tool
    async def bad(x: str) -> str:
        """Hangs."""
        await asyncio.sleep(20)
        return x

    bad.metadata = {"kind": "read", "reaches": "machine"}
    agent = graph(calls("bad", x="1"), "I see", tools=[bad], limits=TurnLimits(tool_seconds=0.2))
    events = [event async for event in astream_events(agent, "go")]
    assert (
        last(events).text == "I see"
        and "no answer within" in next(e for e in events if isinstance(e, ToolResult)).text
    )


def test_a_second_failure_goes_to_the_user() -> None:
    agent = graph(
        calls("bad", "c1", x="1"), calls("bad", "c2", x="2"), "never said", tools=[misbehaving(boom)]
    )
    final = last(list(stream_events(agent, "go")))
    assert final.text.startswith("Stopped: a tool failed twice") and "bad failed: ValueError" in final.text
    assert "hunter2" not in final.text  # T17: what an unexpected error says may be a secret


def test_identical_calls_are_stopped() -> None:
    agent = graph(lambda messages: calls("look", f"c{len(messages)}", where="here"))
    final = last(events := list(stream_events(agent, "go")))
    assert "again and again" in final.text and "saw here" in final.text
    texts = [event.text for event in events if isinstance(event, ToolResult)]
    assert texts[0] == "saw here" and "already called" in texts[1] and len(texts) == 3


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (TurnLimits(steps=3), "3 steps are the limit"),
        (TurnLimits(seconds=0.0), "are the limit of a turn (max_seconds)"),
        (TurnLimits(tokens=15), "15 tokens are the limit"),
    ],
)
def test_limits_end_the_turn_with_what_there_is(limits: TurnLimits, said: str) -> None:
    def step(messages: list[Any]) -> AIMessage:
        message = calls("look", f"c{len(messages)}", where=str(len(messages)))
        message.usage_metadata = {"input_tokens": 1, "output_tokens": 10, "total_tokens": 11}
        return message

    final = last(list(stream_events(graph(step, limits=limits), "go")))
    assert said in final.text and ("saw" in final.text or "no result yet" in final.text)


def test_tool_calls_are_counted() -> None:
    def step(messages: list[Any]) -> Any:
        if any(isinstance(m, ToolMessage) and "limit" in m.text.lower() for m in messages):
            return "enough"
        return calls("look", f"c{len(messages)}", where=str(len(messages)))

    assert last(list(stream_events(graph(step, max_tool_calls=2), "go"))).text == "enough"


def answering(make: Any) -> BaseTool:
    """A tool whose result is the answer."""

    @tool(return_direct=True)
    def price(of: str) -> str:
        """Looks up a price."""
        return str(make(of))

    price.metadata = {"kind": "read", "reaches": "machine"}
    return price


def test_a_result_that_answers_ends_the_turn_and_is_read_as_its_answer() -> None:
    agent = graph(calls("price", of="tea"), "never said", tools=[answering(lambda of: f"{of}: 3 EUR")])
    events = list(stream_events(agent, "what does tea cost?"))
    assert [event.type for event in events] == ["tool_call", "tool_result", "delta", "answer"]
    assert last(events).text == "tea: 3 EUR" == events[2].text  # type: ignore[union-attr]


def test_a_tool_that_fails_to_answer_goes_back_to_the_model() -> None:
    agent = graph(calls("price", of="tea"), "I do not know", tools=[answering(lambda of: 1 / 0)])
    events = list(stream_events(agent, "what does tea cost?"))
    failed = next(event for event in events if isinstance(event, ToolResult))
    assert failed.status == "error" and failed.text.startswith("price failed: ZeroDivisionError")
    assert last(events).text == "I do not know"


def test_an_edit_is_told_to_the_model_and_cannot_name_another_tool() -> None:
    agent, pause = ask_first(calls("act", what="x"), lambda messages: messages[-1].text)
    edit = {"type": "edit", "edited_action": {"name": "look", "args": {"where": "y"}}}
    with pytest.raises(ValidationError, match="expected an edited call of 'act', found 'look'"):
        resume(agent, pause, edit)
    assert ACTS == []
    edit["edited_action"] = {"name": "act", "args": {"what": "y"}}
    agent, pause = ask_first(calls("act", what="x"), "done")
    told: list[ToolResult] = []
    for event in stream_events(agent, Command(resume={pause.id: edit}), config=CONFIG):
        told += [event] if isinstance(event, ToolResult) else []
    assert "The user changed the arguments" in told[0].text and told[0].text.endswith("did y")


def two_calls() -> AIMessage:
    parts = [calls("act", "c1", what="x"), calls("act", "c2", what="y")]
    return AIMessage("", tool_calls=[call for part in parts for call in part.tool_calls])


def test_always_for_one_call_does_not_run_another_that_is_refused() -> None:
    """X12: both calls are of one step."""
    agent = graph(two_calls(), "done", checkpointer=InMemorySaver())
    pauses = [e for e in stream_events(agent, "do both", config=CONFIG) if isinstance(e, Approval)]
    first, second = sorted(pauses, key=lambda pause: pause.requests[0]["args"]["what"])
    decisions = {
        first.id: {"type": "approve", "always": "clean"},
        second.id: {"type": "reject", "message": "no"},
    }
    list(stream_events(agent, Command(resume=decisions), config=CONFIG))
    assert ACTS == ["x"]


def test_a_rejection_counts_under_whatever_setting_the_turn_is_resumed() -> None:
    """X12: the turn keeps the setting that it began with."""
    agent, pause = ask_first(calls("act", what="x"), "as you like")
    command = Command(resume={pause.id: {"type": "reject", "message": "nobody is here to allow it."}})
    list(stream_events(agent, command, config=CONFIG, context=RunContext(approve="never-ask")))
    assert ACTS == []


def test_two_rejections_are_no_failures_of_the_tool() -> None:
    """T8: the model may go on after them."""
    agent, pause = ask_first(calls("act", "c1", what="x"), calls("act", "c2", what="y"), "as you like")
    no = {"type": "reject", "message": "no"}
    events = list(stream_events(agent, Command(resume={pause.id: no}), config=CONFIG))
    assert isinstance(events[-1], Approval)
    assert resume(agent, events[-1], no).text == "as you like"


def test_langchain_s_form_of_an_answer_is_understood() -> None:
    """T17: `{"decisions": [...]}` is what HumanInTheLoopMiddleware is resumed with."""
    agent, pause = ask_first(calls("act", what="x"), "done")
    assert resume(agent, pause, {"decisions": [{"type": "approve"}]}).text == "done"
    assert ACTS == ["x"]


def test_a_grant_ends_if_the_tool_changes() -> None:
    other = act.model_copy(update={"description": "Acts on everything."})
    granted = [rule_of(act).grant("clean")]
    agent = graph(calls("act", what="x"), "done", tools=[other], checkpointer=InMemorySaver())
    events = list(
        stream_events(agent, {"messages": [("user", "x")], "allowed_tools": granted}, config=CONFIG)
    )
    assert isinstance(events[-1], Approval) and ACTS == []


def test_a_plain_function_and_an_asynchronous_tool_are_tools() -> None:
    """T17: in a synchronous run as well."""

    def double(number: int) -> int:
        """Return twice the number."""
        return 2 * number

    @tool
    async def later(what: str) -> str:
        """Says it later."""
        return f"later {what}"

    later.metadata = {"kind": "read", "reaches": "machine"}
    answers = (calls("double", "c1", number=4), calls("later", "c2", what="x"), "done")
    agent = build_graph(scripted(*answers), tools=[double, later], approve="never-ask")
    events = list(stream_events(agent, "go"))
    assert [event.text for event in events if isinstance(event, ToolResult)] == ["8", "later x"]


def test_a_thread_holds_plain_data_and_no_classes_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """T18: LangGraph warns about classes in a checkpoint that it does not know."""

    @tool(response_format="content_and_artifact")
    def find(what: str) -> tuple[str, Answer]:
        """Finds something."""
        return "found", Answer("Found.", question=what)

    find.metadata = {"kind": "read", "reaches": "machine"}
    agent = graph(calls("find", what="x"), "done", tools=[find], checkpointer=InMemorySaver())
    list(stream_events(agent, "find x", config=CONFIG))
    kept = agent.get_state(CONFIG).values["messages"]
    assert next(m for m in kept if isinstance(m, ToolMessage)).artifact["question"] == "x"
    assert "unregistered" not in caplog.text


def test_a_stored_result_equals_the_one_that_was_made() -> None:
    """T18: a checkpoint returns tuples as lists."""
    cited = Citation(number=1, source="a", heading="", page=None, start=0, end=1, quote="q", chunk_id="1")
    made = Answer("x [1]", citations=(cited,), grounded=True)
    serializer = ThreadSerializer()
    assert serializer.loads_typed(serializer.dumps_typed(made)) == made


def test_the_time_that_a_person_takes_is_not_the_turn_s() -> None:
    """T8: also for a program that resumes with LangGraph's command alone."""
    agent = graph(
        calls("act", what="x"), "done", checkpointer=InMemorySaver(), limits=TurnLimits(seconds=1000)
    )
    list(stream_events(agent, "do x", config=CONFIG))
    state = agent.get_state(CONFIG)
    began = state.values["turn_started"]
    pause = next(p for task in state.tasks for p in task.interrupts)
    with (
        patch("agent.turn.state.time.time", lambda: began + 2000),
        patch("agent.turn.bounds.time.time", lambda: began + 2000),
    ):
        agent.invoke(Command(resume={pause.id: {"type": "approve"}}), CONFIG)
    assert ACTS == ["x"] and agent.get_state(CONFIG).values["messages"][-1].text == "done"
