"""The verbs around the assistant itself: `agent config`, `doctor`, `completion` and `mcp`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from agent.cli import console
from agent.cli.options import (
    FILE,
    JSON,
    MODEL_OPTIONS,
    STORE_OPTIONS,
    Args,
    OneOf,
    action,
    completed_from,
    flag,
    number,
    option,
    parts_from,
    setting_names,
    settings_from,
    verb,
    words,
)
from agent.errors import RequestError


@verb(
    action("path", "set", "show", "unset", default="show"),
    words(
        "words",
        metavar="[NAME [VALUE]]",
        shell_complete=completed_from(setting_names),
        help="set: a setting and its value; show, unset: settings",
    ),
    JSON,
)
def config(args: Args) -> int:
    """Show the settings, or change one."""
    if args.action in ("set", "unset"):
        return _change_setting(args)
    if args.action == "path":  # must work for a file that cannot be read, so that it can be found
        from agent.settings import config_file

        console.line(str(config_file(args.home)))
        return 0
    settings = settings_from(args)
    from agent.settings import known_setting, show_values

    wanted = [known_setting(word) for word in args.words]
    rows = [row for row in show_values(settings) if not wanted or row["setting"] in wanted]
    if args.json:
        console.write_json({row["setting"]: row["value"] for row in rows})
    else:
        console.table(rows, ["setting", "value", "default", "what"])
    return 0


def _change_setting(args: Args) -> int:
    from agent.settings import config_file, set_value

    path, given = config_file(args.home), args.words
    if args.action == "unset" and given:
        for name in given:
            set_value(path, name, "")
            console.line(f"{name} is back at its default")
        return 0
    if len(given) < 2:
        raise RequestError(
            f"expected a setting and its value, found {' '.join(given)!r}; for example: agent config set k 6"
        )
    name, value = given[0], " ".join(given[1:])
    set_value(path, name, value)
    console.line(f"{name} = {value}" if value else f"{name} is back at its default")
    return 0


@verb(
    JSON,
    *STORE_OPTIONS,
)
def doctor(args: Args) -> int:
    """Check everything; the exit code is 1 if something is broken."""
    console.note("agent: looking at this machine …")
    from agent.doctor import check_all

    findings = []
    for finding in check_all(settings_from(args)):
        detail, fix = console.as_typed(finding.detail), console.as_typed(finding.fix)
        findings.append({**asdict(finding), "detail": detail, "fix": fix})
        if not args.json:
            console.line(f"{finding.state:<7} {finding.name:<9} {detail}{f'; {fix}' if fix else ''}")
    if args.json:
        console.write_json({"findings": findings})
    return int(any(finding["state"] == "broken" for finding in findings))


@verb(
    words(
        "shell",
        nargs=1,
        type=OneOf(["bash", "fish", "zsh"]),
        required=True,
        metavar="SHELL",
        help="bash, fish or zsh; put the output where your shell reads it",
    ),
)
def completion(args: Args) -> int:
    """Print a script that makes the shell complete verbs, options, names and paths."""
    from click.shell_completion import get_completion_class

    from agent.cli.main import COMPLETE_VARIABLE, program

    shell = get_completion_class(args.shell)
    assert shell is not None
    console.line(shell(program, {}, "agent", COMPLETE_VARIABLE).source())
    return 0


@verb(
    action("list", "serve", default="serve"),
    option("--allow", multiple=True, metavar="TOOL", help="serve this tool that acts, too"),
    flag("--http", help="serve over HTTP instead of standard input and output"),
    option("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (127.0.0.1)"),
    option("--port", type=number(1, 65535, whole=True), default=8765, metavar="N", help="port (8765)"),
    option("--files", multiple=True, type=FILE, metavar="DIR", help="a folder that read_file may read"),
    *STORE_OPTIONS,
    *MODEL_OPTIONS,
)
def mcp(args: Args) -> int:
    """Serve tools until the client goes, or list those of the servers in the settings."""
    console.note("agent: starting …")
    import asyncio

    with parts_from(args) as parts:
        if args.action == "list":
            return _list_tools(parts.mcp.tools())
        from agent.mcp import server as mcp_server

        tools = mcp_server.served(parts.own_tools, allow=args.allow)
        console.note(f"serving {', '.join(tool.name for tool in tools)}")
        server = mcp_server.build_server(tools)
        if args.http:
            asyncio.run(mcp_server.serve_http(server, host=args.host, port=int(args.port)))
        else:
            asyncio.run(mcp_server.serve_stdio(server))
    return 0


def _list_tools(tools: Sequence[object]) -> int:
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
