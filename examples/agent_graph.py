"""The agent as a graph that LangGraph's development server opens.

    langgraph dev --config examples/langgraph.json

The server keeps the threads and shows each question for approval. Run as a program, it answers one question.
"""

from agent import build_agent, load_settings

graph = build_agent(load_settings(approve="ask"))

if __name__ == "__main__":
    print(graph.invoke({"messages": [("user", "What is 17 * 23?")]})["messages"][-1].text)
