"""What the agent keeps on disk: threads, logs, notes and templates."""
