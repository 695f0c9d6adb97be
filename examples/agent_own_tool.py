"""The agent with a tool of your own, which the router finds by its description."""

from typing import Literal

from langchain_core.tools import tool

from agent import build_agent, load_settings, stream_events
from agent.events import Final, ToolCall, ToolResult

STOCK = {"pencils": 120, "rulers": 14, "erasers": 0}


@tool
def stock(article: Literal["pencils", "rulers", "erasers"]) -> str:
    """Tell how many pieces of an article are in stock in our shop."""
    return f"{STOCK[article]} {article} in stock"


stock.metadata = {"kind": "read", "answers": True}  # it only looks; what it says is the answer

agent = build_agent(load_settings(model="smollm2-135m", max_tokens=40), tools=[stock])
for event in stream_events(agent, "How many rulers are in stock?"):
    if isinstance(event, ToolCall):
        print(f"calls {event.name} with {event.args}")
    elif isinstance(event, ToolResult):
        print(f"{event.name} says {event.text}")
    elif isinstance(event, Final):
        print(f"answer: {event.text}")
