"""The agent room: settings, the composition root, the graph and the command line.

Knows every other room and wires them together. Refuses to hold anything that a library user could want
without a command line: chains, tools and models live in their own rooms. Importing this package imports
neither torch nor LangChain: each name is looked up on first use.
"""

import lazy_loader

__all__ = [
    "AgentError",
    "Parts",
    "RunContext",
    "Settings",
    "Stop",
    "Stopped",
    "build_agent",
    "load_settings",
    "stream_events",
]
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
