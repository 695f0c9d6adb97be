"""An approval flow in an app: the agent stops before a tool acts, and goes on when somebody has decided.

Here a function decides; a web app would show `request["description"]`, store the thread's id, and resume
the run when the answer comes, after a restart if need be (LangGraph keeps the waiting run in its
checkpointer).
"""

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agent import build_agent, load_settings, stream_events
from agent.turn.events import Approval, Final

agent = build_agent(load_settings(model="smollm2-135m"), checkpointer=InMemorySaver())
config = {"configurable": {"thread_id": "demo"}}


def decide(request: dict[str, object]) -> dict[str, object]:
    """Allow programs that only print, refuse the rest."""
    print(request["description"])
    code = str(request["args"]["code"])  # type: ignore[index]
    if code.startswith("print("):
        return {"type": "approve"}
    return {"type": "reject", "message": "Only programs that print are allowed here."}


for question in ("Run this code: print(sum(range(10)))", "Run this code: open('x', 'w')"):
    inputs: object = question
    while inputs is not None:
        waiting: object = None
        for event in stream_events(agent, inputs, config=config):
            if isinstance(event, Approval):
                waiting = Command(resume={event.id: decide(event.requests[0])})
            elif isinstance(event, Final):
                print(f"answer: {event.text}\n")
        inputs = waiting
    config = {"configurable": {"thread_id": "another"}}  # a clean context for the second question
