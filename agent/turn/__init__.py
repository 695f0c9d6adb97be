"""One turn of the agent: the graph, its middleware and its events."""
