"""Tools over the Model Context Protocol, both ways: our agent serves its tools and uses a server's.

The other server is this program's own `agent mcp`, started as a child. In an app its settings stand in
config.toml:

    [mcp.other]
    command = ["agent", "mcp"]
    read_tools = ["calculator"]
"""

import sys

from agent import load_settings
from agent.mcp.client import McpServers
from agent.settings import McpServer

command = [sys.executable, "-m", "agent", "mcp", "--quiet"]
servers = McpServers({"other": McpServer(command=command, read_tools=["calculator"], timeout_s=60)})
tools = {tool.name: tool for tool in servers.tools()}
for name, tool in tools.items():
    print(f"{name} ({(tool.metadata or {})['kind']}): {tool.description[:60]}")
answer = tools["other_calculator"].invoke({"expression": "2 ** 10 + 1"})
print("2 ** 10 + 1 =", answer[0]["text"] if isinstance(answer, list) else answer)
servers.close()
print("settings for more:", sorted(load_settings().mcp) or "no servers in config.toml")
