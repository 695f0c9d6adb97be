"""What a tool call may do: the policy, where text came from, and the user's approval."""
