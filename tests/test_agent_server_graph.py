"""LangGraph's development server opens our graph: the file is read and the graph loaded as it does that."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.types import Command

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def graph(tmp_path: Path, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the graph of langgraph.json with a saver of the server's own, with an empty home."""
    monkeypatch.setenv("AGENT_HOME", str(tmp_path))
    monkeypatch.setenv("AGENT_CACHE_DIR", str(embedded_cache))
    config = json.loads((EXAMPLES / "langgraph.json").read_text(encoding="utf-8"))
    place, _, name = config["graphs"]["agent"].partition(":")
    spec = importlib.util.spec_from_file_location("served_graph", EXAMPLES / place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name)
    assert isinstance(found, Pregel)
    return found.copy(update={"checkpointer": InMemorySaver()})


def test_the_server_gets_schemas_and_a_drawing(graph: Any) -> None:
    assert "messages" in graph.get_input_jsonschema()["properties"]
    assert "messages" in graph.get_output_jsonschema()["properties"]
    assert graph.get_context_jsonschema()["properties"].keys() >= {"docs", "tools", "approve"}
    assert {"plan", "model", "tools"} <= set(graph.get_graph().nodes)


def test_a_turn_waits_for_approval_and_goes_on(graph: Any) -> None:
    """The context and the answers are plain JSON, as they come over the wire."""
    config: Any = {"configurable": {"thread_id": "t"}}
    asked = {"messages": [{"role": "user", "content": "Remember that I like tea"}]}
    waiting = graph.invoke(asked, config, context={"docs": "off"})["__interrupt__"]
    assert waiting[0].value["name"] == "remember" and "I like tea" in waiting[0].value["description"]
    done = graph.invoke(Command(resume={waiting[0].id: {"type": "approve"}}), config)
    assert done["messages"][-1].text == "I will remember: I like tea"
