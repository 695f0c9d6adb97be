"""`agent mcp`: serve our tools to MCP clients, or list the tools of the servers in the settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from agent.cli import console
from agent.cli.options import add_model_options, add_store_options, number, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="serve", choices=["list", "serve"], help="what to do (serve)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="TOOL", help="serve this tool that acts, too"
    )
    parser.add_argument(
        "--http", action="store_true", help="serve over HTTP instead of standard input and output"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--port", type=number(1, 65535, whole=True), default=8765, help="port to listen on (8765)"
    )
    parser.add_argument("--files", action="append", metavar="DIR", help="a folder that read_file may read")
    add_store_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the client goes, or list."""
    console.configure(args)
    console.note("agent: starting …")
    import asyncio

    from agent.build import Parts

    with Parts(settings_from(args)) as parts:
        if args.action == "list":
            return _list(parts.mcp.tools())
        from agent.mcp import server as mcp_server

        tools = mcp_server.served(parts.own_tools, allow=args.allow, sandboxed=parts.sandboxed)
        console.note(f"serving {', '.join(tool.name for tool in tools)}")
        server = mcp_server.build_server(tools)
        if args.http:
            asyncio.run(mcp_server.serve_http(server, host=args.host, port=int(args.port)))
        else:
            asyncio.run(mcp_server.serve_stdio(server))
    return 0


def _list(tools: Sequence[object]) -> int:
    rows = [
        {
            "tool": getattr(tool, "name", ""),
            "kind": (getattr(tool, "metadata", None) or {}).get("kind", ""),
            "description": console.shorten(getattr(tool, "description", ""), 80),
        }
        for tool in tools
    ]
    if rows:
        console.table(rows, ["tool", "kind", "description"])
    else:
        console.note('no MCP servers answer; add one to config.toml: [mcp.NAME] command = ["..."]')
    return 0
