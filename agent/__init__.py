"""The agent: settings, the one place that builds and wires everything, a turn's graph, the command line.

    from agent import build_agent, load_settings, stream_events

    agent = build_agent(load_settings())
    for event in stream_events(agent, "What does README.md say about the licence?"):
        print(getattr(event, "text", ""), end="")

Importing this package imports neither torch nor LangChain; each name is looked up on first use.
"""

import importlib.util
import os
from typing import Any

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


def _refuse_shadowed() -> None:
    """Raise ImportError if another package has the name of one that belongs to this toolkit.

    Python takes the first one on its path, so that an app's own `tools` folder would be imported in place of
    ours, and the error would come from somewhere inside.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for name in ("chains", "llms", "sandbox", "tools"):
        spec = importlib.util.find_spec(name)
        places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
        if not any(os.path.realpath(place).startswith(os.path.join(root, name)) for place in places):
            raise ImportError(
                f"expected this toolkit's package {name!r} in {root!r}, found {places[:1]}; rename that "
                "folder, or keep it in a package of your own"
            )


_look_up, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Return a public name, imported on its first use."""
    _refuse_shadowed()
    return _look_up(name)
