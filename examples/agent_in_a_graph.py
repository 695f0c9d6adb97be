"""The agent as one node in a LangGraph of your own: a greeting before it, a word count after it."""

from typing import Annotated, TypedDict

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from agent import build_agent, load_settings


class State(TypedDict):
    """The messages, and how many words the answer has."""

    messages: Annotated[list[AnyMessage], add_messages]
    words: int


def count(state: State) -> dict[str, int]:
    """Count the words of the last message."""
    return {"words": len(state["messages"][-1].text.split())}


agent = build_agent(load_settings(model="smollm2-135m", max_tokens=40))
graph = StateGraph(State)
graph.add_node("agent", agent)
graph.add_node("count", count)
graph.add_edge(START, "agent")
graph.add_edge("agent", "count")
graph.add_edge("count", END)

result = graph.compile().invoke({"messages": [HumanMessage("What is the capital of France?")], "words": 0})
print(result["messages"][-1].text)
print("words:", result["words"])
