"""The guard: what a tool call may do, where its text comes from, and the user's approval."""
