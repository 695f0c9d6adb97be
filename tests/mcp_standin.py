"""An MCP server that tests start as a child: by its argument it works, or misbehaves in one of four ways."""

from __future__ import annotations

import os
import sys
import time

BEHAVIOUR = sys.argv[1] if len(sys.argv) > 1 else "honest"

if BEHAVIOUR == "garbage":
    sys.stdout.write("this is no protocol\n")
    sys.stdout.flush()
    time.sleep(30)
elif BEHAVIOUR == "flood":
    sys.stdout.write("this is no protocol\n" * 200)
    sys.exit(0)
elif BEHAVIOUR == "never":
    time.sleep(60)
elif BEHAVIOUR == "dead":
    sys.exit(3)

from mcp.server.fastmcp import FastMCP, Image  # noqa: E402

server = FastMCP("standin")


@server.tool()
def read_file(path: str) -> str:
    """Reads a file of the stand-in's."""
    return f"the stand-in's {path}"


@server.tool()
def crash() -> str:
    """Ends the server."""
    os._exit(9)


@server.tool()
def fails() -> str:
    """Fails."""
    raise ValueError("no luck today")


@server.tool()
def picture() -> Image:
    """A picture."""
    return Image(data=b"\x89PNG\r\n\x1a\n", format="png")


@server.tool()
def slow() -> str:
    """Takes too long."""
    time.sleep(60)
    return "late"


if __name__ == "__main__":
    server.run()
