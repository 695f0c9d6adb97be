"""Tools of Model Context Protocol servers, each with its own trust, timeout and name.

A call opens a session of its own (langchain-mcp-adapters), so a server that died is started again by the next
call and cannot take the agent with it. A tool's name carries the server's, so that it cannot shadow a tool of
ours. Whatever a server answers is untrusted text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from agent.errors import McpError

if TYPE_CHECKING:
    from langchain_mcp_adapters.sessions import Connection

    from agent.settings import McpServer

_GONE = frozenset({"BrokenResourceError", "ClosedResourceError", "EndOfStream"})
"""What anyio's streams raise if the other end has gone."""
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_DESCRIPTION = 1000
"""The model reads a description before any approval, so each is cut at a length that is enough for one: that
of the tool and those of its parameters."""
_MAX_SCHEMA = 16_000
"""Characters of a tool's parameters as JSON. Names and choices cannot be cut, so a longer one is left out."""


class McpServers:
    """Connections to the servers of the settings; their tools are plain LangChain tools.

    ```python
    servers = McpServers({"files": McpServer(command=["mcp-files", "/data"], trust="read")})
    agent = build_agent(load_settings(), servers.tools())
    servers.close()
    ```
    """

    def __init__(
        self, servers: Mapping[str, McpServer], *, notify: Callable[[str], None] | None = None
    ) -> None:
        self._servers = dict(servers)
        self._notify = notify or _to_stderr
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def tools(self) -> list[BaseTool]:
        """Return the tools of every server that answers; `notify` is told about the others."""
        found: list[BaseTool] = []
        for name, server in self._servers.items():
            try:
                found += self.tools_of(name, server)
            except McpError as error:
                self._notify(f"left out: {error}")
        return found

    def tools_of(self, name: str, server: McpServer) -> list[BaseTool]:
        """Return the tools of one server; raises McpError if it does not start or answer in time."""
        from langchain_mcp_adapters.tools import load_mcp_tools

        async def load() -> list[BaseTool]:
            async with asyncio.timeout(server.timeout_s):
                return await load_mcp_tools(None, connection=_connection(name, server), server_name=name)

        found = []
        for tool in self._run(name, server, load()):
            if len(json.dumps(_bounded(tool.args_schema))) > _MAX_SCHEMA:
                self._notify(
                    f"left out: expected at most {_MAX_SCHEMA:,} characters for the parameters of the tool "
                    f"{tool.name[:64]!r} of the MCP server {name!r}, found more"
                )
            else:
                found.append(self._wrapped(name, server, tool))
        return found

    def close(self) -> None:
        """End the thread that talks to the servers."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            self._loop.close()
            self._loop = self._thread = None

    def _wrapped(self, name: str, server: McpServer, tool: BaseTool) -> BaseTool:
        """Return the tool under a name of its own, with its kind, a time limit, and a synchronous form."""
        inner = cast("StructuredTool", tool)
        assert inner.coroutine is not None

        async def acall(**arguments: Any) -> Any:
            assert inner.coroutine is not None
            try:
                with _quiet_client():
                    async with asyncio.timeout(server.timeout_s):
                        return await inner.coroutine(**arguments)
            except ToolException as error:  # The tool itself says so to the model; the server works.
                raise ToolException(str(error)) from error
            except Exception as error:  # The protocol's errors come in groups of many kinds.
                raise McpError(_explain(name, server, error)) from error

        def call(**arguments: Any) -> Any:
            return self._run(name, server, acall(**arguments))

        kind = "read" if tool.name in server.read_tools else server.trust
        return StructuredTool(
            name=_NAME.sub("_", f"{name}_{tool.name}")[:64],
            description=(tool.description or "")[:_MAX_DESCRIPTION],
            args_schema=_bounded(cast("dict[str, Any]", tool.args_schema)),
            func=call,
            coroutine=acall,
            response_format=inner.response_format,
            metadata={
                "kind": kind,
                "reaches": server.reaches,
                "described_by": None if server.trusted else f"the MCP server {name}",
                "mcp_server": name,
            },
        )

    def _run(self, name: str, server: McpServer, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop of the servers, from any thread; raises McpError."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="mcp")
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            with _quiet_client():
                return future.result(timeout=server.timeout_s + 5)
        except (McpError, ToolException):
            raise
        except BaseException as error:
            future.cancel()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise McpError(_explain(name, server, error)) from error


def _connection(name: str, server: McpServer) -> Connection:
    if bool(server.command) == bool(server.url):
        raise McpError(
            f"expected a command or a url for the MCP server {name!r}, found {server!r}; give one of them"
        )
    if server.url:
        return {"transport": "streamable_http", "url": server.url, "headers": dict(server.headers)}
    # The child gets the variables of the settings, and the few that the protocol's own client passes on.
    return {
        "transport": "stdio",
        "command": server.command[0],
        "args": server.command[1:],
        "env": dict(server.env) or None,
    }


def _bounded(schema: Any) -> Any:
    """Return a JSON schema whose texts have at most `_MAX_DESCRIPTION` characters each."""
    if isinstance(schema, dict):
        return {key: _bounded(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_bounded(value) for value in schema]
    return schema[:_MAX_DESCRIPTION] if isinstance(schema, str) else schema


def _explain(name: str, server: McpServer, error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        what = f"nothing within {server.timeout_s:g} s"
    elif type(error).__name__ in _GONE or str(error) == "Connection closed":
        what = "that it ended, or sent no message of the protocol"
    else:
        what = f"{type(error).__name__}: {error}"[:500]
    where = server.url or " ".join(server.command)
    return (
        f"expected an answer of the MCP server {name!r} ({where}), found {what}; start it by hand to see why"
    )


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the protocol's client from logging a traceback for each bad line while the block runs.

    What went wrong is raised, in one line. The client logs under its own names and to the root logger.
    """
    names = (None, "mcp.client.stdio", "mcp.client.streamable_http", "mcp.shared.session")
    loggers = [logging.getLogger(name) for name in names]

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.CRITICAL or "mcp" not in PurePath(record.pathname).parts

    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def _to_stderr(line: str) -> None:
    import sys

    sys.stderr.write(f"{line}\n")
