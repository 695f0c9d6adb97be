"""What can go wrong in the agent room itself, split by who must act.

    AgentError
    ├── RequestError          the words or options of this request: the user rephrases
    ├── ConfigError           config.toml or an AGENT_ variable: the user edits it
    ├── FolderError           a folder of ours cannot be made or written: the user frees it or names another
    ├── ThreadError           a thread is unknown, damaged, locked, or of a newer version
    ├── TemplateError         a prompt template is unknown or lacks a value
    └── McpError              a Model Context Protocol server does not start, answer, or make sense

Knows nothing of exit codes (`agent.exit_codes` maps these classes). Every message says what was expected,
what was found, and the next step.
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of the agent room's errors."""


class RequestError(AgentError):
    """This request cannot be carried out as it was put."""


class ConfigError(AgentError):
    """A setting is unknown or has a value that cannot be used."""


class FolderError(AgentError):
    """A folder for the store, threads, logs or settings cannot be used."""


class ThreadError(AgentError):
    """A conversation thread is unknown, damaged, locked, or written by a newer version."""


class TemplateError(AgentError):
    """A prompt template is unknown or lacks a value."""


class McpError(AgentError):
    """A Model Context Protocol server failed."""
