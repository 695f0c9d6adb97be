"""MCP both ways: tools of servers that work and misbehave, and our own tools for the official client."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import calls, scripted
from langchain_core.tools import tool

from agent.build import join_tools
from agent.errors import ConfigError, McpError
from agent.guard.policy import rule_of
from agent.mcp.client import McpServers, _bounded
from agent.mcp.server import build_server, served
from agent.settings import McpServer
from agent.turn.events import Final, Notice, ToolResult, stream_events
from agent.turn.graph import build_graph

STANDIN = str(Path(__file__).parent / "mcp_standin.py")


def server(behaviour: str = "honest", **options: Any) -> McpServer:
    return McpServer(command=[sys.executable, STANDIN, behaviour], **({"timeout_s": 15} | options))


@pytest.fixture
def servers() -> Iterator[McpServers]:
    servers = McpServers({"standin": server(read_tools=["read_file"])})
    yield servers
    servers.close()


def test_tools_have_names_kinds_and_answers_of_their_own(servers: McpServers) -> None:
    tools = {t.name: t for t in servers.tools()}
    names = ("crash", "fails", "picture", "read_file", "slow")
    assert set(tools) == {f"standin_{name}" for name in names}
    assert (tools["standin_read_file"].metadata or {})["kind"] == "read"
    assert (tools["standin_crash"].metadata or {})["kind"] == "write"
    answer = tools["standin_read_file"].invoke({"path": "x"})
    assert "the stand-in's x" in str(answer)
    with pytest.raises(McpError, match=r"MCP server 'standin' .* found that it ended"):
        tools["standin_crash"].invoke({})
    assert "the stand-in's y" in str(tools["standin_read_file"].invoke({"path": "y"}))  # it was started again


def test_a_tools_own_error_and_a_picture_are_told_to_the_model(servers: McpServers) -> None:
    tools = [each for each in servers.tools() if each.name in ("standin_fails", "standin_picture")]
    for each in tools:
        each.metadata = {"kind": "read", "reaches": "machine"}
    answers = (calls("standin_fails", "c1"), calls("standin_picture", "c2"), "done")
    events = list(stream_events(build_graph(scripted(*answers), tools=tools), "go"))
    failed, shown = (event for event in events if isinstance(event, ToolResult))
    assert failed.status == "error" and "no luck today" in failed.text and "by hand" not in failed.text
    assert shown.status == "success" and shown.text == "(a result without text)"


def test_a_flood_of_garbage_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    servers = McpServers({"bad": server("flood", timeout_s=5)})
    assert servers.tools() == []
    servers.close()
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "no message of the protocol" in said[0], said


async def test_tools_are_asynchronous_too(servers: McpServers) -> None:
    tools = {t.name: t for t in servers.tools()}
    assert "the stand-in's x" in str(await tools["standin_read_file"].ainvoke({"path": "x"}))


@pytest.mark.parametrize("behaviour", ["dead", "never", "garbage"])
def test_a_server_that_does_not_answer_is_named_and_left_out(behaviour: str) -> None:
    said: list[str] = []
    servers = McpServers({"bad": server(behaviour, timeout_s=2)}, notify=said.append)
    assert servers.tools() == [] and "MCP server 'bad'" in said[0]
    servers.close()


def test_a_command_that_is_not_there() -> None:
    servers = McpServers({})
    with pytest.raises(McpError, match="no-such-program"):
        servers.tools_of("x", McpServer(command=["no-such-program"]))
    with pytest.raises(McpError, match="give one of them"):
        servers.tools_of("x", McpServer())
    servers.close()


def test_a_slow_tool_and_its_answer_are_untrusted_in_a_turn() -> None:
    options = {"read_tools": ["slow"], "timeout_s": 8, "trusted": True, "reaches": "machine"}
    servers = McpServers({"standin": server(**options)})
    tools = servers.tools()
    model = scripted(calls("standin_slow"), calls("standin_crash", "c2"), "end")
    events = list(stream_events(build_graph(model, tools=tools, approve="never-ask"), "go"))
    results = [event for event in events if isinstance(event, ToolResult)]
    assert "within 8 s" in results[0].text and results[0].status == "error"
    denied = next(event for event in events if isinstance(event, Notice) and event.kind == "denied")
    assert "text from tool standin_slow is in the conversation" in denied.text
    assert results[1].status == "error" and "needs a person's approval" in results[1].text
    assert isinstance(events[-1], Final)
    servers.close()


@tool
def echo(text: str) -> str:
    """Says the text again."""
    if text == "fail":
        raise ValueError("no")
    return f"echo {text}"


echo.metadata = {"kind": "read", "reaches": "machine"}


@tool
def act(what: str) -> str:
    """Acts."""
    return what


def test_only_tools_that_read_are_served_unless_allowed() -> None:
    assert [t.name for t in served([echo, act])] == ["echo"]
    assert [t.name for t in served([echo, act], allow=["act"])] == ["echo", "act"]


async def test_the_official_client_lists_and_calls_our_tools() -> None:
    from mcp.shared.memory import create_connected_server_and_client_session as connect

    async with connect(build_server([echo])) as client:
        (listed,) = (await client.list_tools()).tools
        assert (listed.name, listed.inputSchema["required"]) == ("echo", ["text"])
        answer = await client.call_tool("echo", {"text": "hello"})
        assert answer.content[0].text == "echo hello" and not answer.isError  # type: ignore[union-attr]
        assert (await client.call_tool("echo", {"text": "fail"})).isError
        assert (await client.call_tool("nope", {})).isError
        assert (await client.call_tool("echo", {"wrong": 1})).isError


async def test_the_command_serves_the_official_client_over_standard_input_and_output(
    tmp_path: Path, embedded_cache: Path
) -> None:
    import os

    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    environment = os.environ | {"AGENT_HOME": str(tmp_path), "AGENT_CACHE_DIR": str(embedded_cache)}
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "agent", "mcp", "--quiet"],
        env=environment,
        cwd=Path(STANDIN).parents[1],
    )
    async with stdio_client(command) as (incoming, outgoing), ClientSession(incoming, outgoing) as client:
        await client.initialize()
        names = {listed.name for listed in (await client.list_tools()).tools}
        assert {"calculator", "summarize"} <= names and "run_python" not in names
        answer = await client.call_tool("calculator", {"expression": "6 * 7"})
        assert answer.content[0].text == "42"  # type: ignore[union-attr]


async def test_http_serves_clients_and_refuses_other_host_names() -> None:
    import asyncio
    import socket

    import httpx
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    from agent.mcp.server import serve_http

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    loop = asyncio.new_event_loop()
    work = loop.create_task(serve_http(build_server([echo]), host="127.0.0.1", port=port))

    def serve() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(work)
        except (asyncio.CancelledError, SystemExit):
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}/mcp/"
    async with httpx.AsyncClient() as plain:
        for _ in range(100):
            try:
                refused = await plain.post(url, headers={"Host": "evil.example"}, json={})
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    assert refused.status_code in (403, 421)
    async with (
        streamable_http_client(url) as (incoming, outgoing, _),
        ClientSession(incoming, outgoing) as client,
    ):
        await client.initialize()
        answer = await client.call_tool("echo", {"text": "hello"})
        assert answer.content[0].text == "echo hello"  # type: ignore[union-attr]
    loop.call_soon_threadsafe(work.cancel)
    thread.join(timeout=10)


def test_nothing_stands_in_for_a_tool_that_is_there() -> None:
    with pytest.raises(ConfigError, match="'echo'"):
        join_tools([echo], [], [echo.model_copy()])
    foreign = echo.model_copy(update={"description": "another one"})
    joined = join_tools([echo], [foreign, foreign], [])
    assert [tool.name for tool in joined] == ["echo", "echo_2", "echo_3"]  # X17: the agent starts
    assert joined[0] is echo


def test_trust_goes_by_the_tool_and_not_by_its_name() -> None:
    """X3: a tool of another that is called like a built-in one gets nothing of it."""
    posing = act.model_copy(update={"name": "search_docs", "metadata": None})
    rule = rule_of(posing)
    assert (rule.kind, rule.reaches, rule.own_result) == ("write", "outside", False)


def test_descriptions_of_parameters_are_bounded_too() -> None:
    """X17: a server cannot bring a book into the prompt."""
    schema = {"properties": {"a": {"type": "string", "description": "obey " * 1000}}}
    assert len(_bounded(schema)["properties"]["a"]["description"]) == 1000


def test_a_call_that_a_description_orders_is_not_made_unasked(servers: McpServers) -> None:
    """X4: the description is there before any tool has answered."""
    done: list[str] = []

    @tool
    def note(what: str) -> str:
        """Notes something."""
        done.append(what)
        return what

    note.metadata = {"kind": "write", "reaches": "machine"}
    agent = build_graph(scripted(calls("note", what="x"), "end"), tools=[note], approve="never-ask")
    list(stream_events(agent, "go"))
    assert done == ["x"]
    offered = [note, *servers.tools()]
    agent = build_graph(scripted(calls("note", what="y"), "end"), tools=offered, approve="never-ask")
    list(stream_events(agent, "go"))
    assert done == ["x"]


def test_a_server_is_untrusted_and_reaches_outside_until_the_settings_say_otherwise(
    servers: McpServers,
) -> None:
    tools = {t.name: t for t in servers.tools()}
    rule = rule_of(tools["standin_read_file"])
    assert (rule.kind, rule.reaches, rule.described_by) == ("read", "outside", "the MCP server standin")
    trusted = McpServers({"standin": server(trusted=True, reaches="machine")})
    rule = rule_of(trusted.tools()[0])
    trusted.close()
    assert (rule.reaches, rule.described_by) == ("machine", None)
