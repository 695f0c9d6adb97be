"""OpenTelemetry spans: GenAI names, counts and times, and no text of the conversation."""

from __future__ import annotations

from typing import Any

import pytest
from agent_fakes import calls, scripted
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.errors import ConfigError
from agent.trace import GenAISpans, exporting_spans
from agent.turn.events import stream_events
from agent.turn.graph import build_graph


@tool
def look(where: str) -> str:
    """Looks."""
    if where == "nowhere":
        raise ValueError("secret place")
    return "secret result"


look.metadata = {"kind": "read", "reaches": "machine"}


def spans_of(*answers: Any) -> list[Any]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    handler = GenAISpans(provider.get_tracer("test"))
    agent = build_graph(scripted(*answers), tools=[look])
    try:
        list(stream_events(agent, "secret question", config={"callbacks": [handler]}))
    except RuntimeError:
        pass
    assert handler._open == {}, "a span was left open"
    return list(exporter.get_finished_spans())


def test_a_span_for_each_call_with_the_conventions_and_without_content() -> None:
    said = AIMessage(
        "secret answer", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    )
    spans = spans_of(calls("look", where="there"), said)
    names = [span.name.split()[0] for span in spans]
    assert names == ["chat", "execute_tool", "chat"]
    last = dict(spans[-1].attributes)
    assert last["gen_ai.operation.name"] == "chat" and last["gen_ai.provider.name"] == "local"
    assert (last["gen_ai.usage.input_tokens"], last["gen_ai.usage.output_tokens"]) == (7, 3)
    assert spans[1].attributes["gen_ai.tool.name"] == "look"
    assert all(span.end_time >= span.start_time for span in spans)
    assert "secret" not in repr([(span.name, dict(span.attributes), span.events) for span in spans])


def test_errors_are_named_by_their_class_alone() -> None:
    failing = spans_of(calls("look", where="nowhere"), "sorry")
    assert "error.type" in failing[1].attributes and "secret" not in repr(dict(failing[1].attributes))

    def fail(_: Any) -> Any:
        raise RuntimeError("secret weights")

    (span,) = spans_of(fail)
    assert span.attributes["error.type"] == "RuntimeError" and "secret" not in repr(dict(span.attributes))


def test_without_the_extra_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"mistral-agent-toolkit\[otel\]"):
        exporting_spans()
