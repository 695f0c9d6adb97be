"""One turn of the agent: its graph, its bounds and its events."""
