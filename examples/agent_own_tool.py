"""The agent with a tool of your own, which the router finds by its description."""

from langchain_core.tools import tool

from agent import build_agent, load_settings, stream_events
from agent.turn.events import Final, ToolCall, ToolResult

ORDERS = {4711: "on its way, arrives on Friday", 4712: "waiting for the payment"}


@tool
def order_status(number: int) -> str:
    """Tell the delivery status of a customer's order by its number."""
    return f"Order {number} is {ORDERS.get(number, 'unknown')}."


order_status.metadata = {"kind": "read", "answers": True}  # it only looks; what it says is the answer

agent = build_agent(load_settings(model="smollm2-135m", max_tokens=40), tools=[order_status])
for event in stream_events(agent, "What is the delivery status of order 4711?"):
    if isinstance(event, ToolCall):
        print(f"calls {event.name} with {event.args}")
    elif isinstance(event, ToolResult):
        print(f"{event.name} says {event.text}")
    elif isinstance(event, Final):
        print(f"answer: {event.text}")
