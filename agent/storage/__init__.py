"""What is kept on this machine: conversations, the log, notes and prompt templates."""
