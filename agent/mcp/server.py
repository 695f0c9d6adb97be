"""Our own tools as a Model Context Protocol server for other clients, over stdio or streamable HTTP.

Tools that act are served only if the user says so when the server starts, because nobody can be asked later.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool
from mcp import types
from mcp.server.lowlevel import Server

from agent.guard.policy import rule_of

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage

NAME = "mistral-agent"


def served(tools: Sequence[BaseTool], *, allow: Sequence[str] = ()) -> list[BaseTool]:
    """Return the tools that may be served: all that read, and those that act if `allow` names them."""
    return [tool for tool in tools if rule_of(tool).kind == "read" or tool.name in allow]


def build_server(tools: Sequence[BaseTool]) -> Server[Any, Any]:
    """Return a server that lists and calls these tools; it answers with the error of a tool that fails."""
    by_name = {tool.name: tool for tool in tools}
    server: Server[Any, Any] = Server(NAME, version=_version())

    @server.list_tools()  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
    async def list_tools() -> list[types.Tool]:
        return [_described(tool) for tool in by_name.values()]

    @server.call_tool()  # type: ignore[untyped-decorator, unused-ignore]
    async def call_tool(name: str, arguments: dict[str, Any]) -> list[types.TextContent]:
        tool = by_name.get(name)
        if tool is None:
            raise ValueError(f"expected a tool among {sorted(by_name)}, found {name!r}")
        call = {"type": "tool_call", "name": name, "args": arguments, "id": "mcp"}
        answer: ToolMessage = await tool.ainvoke(call)
        return [types.TextContent(type="text", text=answer.text)]

    return server


async def serve_stdio(server: Server[Any, Any]) -> None:
    """Serve one client on standard input and output until it leaves."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def serve_http(server: Server[Any, Any], *, host: str, port: int) -> None:
    """Serve clients over streamable HTTP at http://host:port/mcp until interrupted."""
    from contextlib import asynccontextmanager

    import uvicorn
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.applications import Starlette
    from starlette.routing import Mount

    # Requests under another host name are refused, so a page in a browser cannot reach the server (DNS
    # rebinding).
    names = [f"{host}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"]
    security = TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=names)
    manager = StreamableHTTPSessionManager(app=server, security_settings=security)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        async with manager.run():
            yield

    app = Starlette(routes=[Mount("/mcp", app=manager.handle_request)], lifespan=lifespan)
    await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()


def _described(tool: BaseTool) -> types.Tool:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    schema = convert_to_openai_tool(tool)["function"]["parameters"]
    return types.Tool(name=tool.name, description=tool.description, inputSchema=schema)


def _version() -> str:
    try:
        return version("mistral-agent-toolkit")
    except PackageNotFoundError:
        return "0"
