"""The agent: settings, the one place that builds and wires everything, a turn's graph, the command line.

    from agent import build_agent, load_settings, stream_events

    agent = build_agent(load_settings())
    for event in stream_events(agent, "What does README.md say about the licence?"):
        print(getattr(event, "text", ""), end="")

Importing this package imports neither torch nor LangChain; each name is looked up on first use.
"""

import lazy_loader

__all__ = [
    "AgentError",
    "AnswerLabel",
    "Approval",
    "Delta",
    "Event",
    "Final",
    "Notice",
    "Parts",
    "RunContext",
    "Settings",
    "Stop",
    "Stopped",
    "ToolCall",
    "ToolResult",
    "astream_events",
    "build_agent",
    "load_settings",
    "stream_events",
]
__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)
