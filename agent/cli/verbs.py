"""The verbs of the command line by name, with one line each; their modules are imported only when they run.

A verb's module has `configure(parser)`, which adds its arguments, and `run(args) -> int`, its exit code.
"""

from __future__ import annotations

VERBS: dict[str, str] = {
    "ask": "ask one question; the documents answer where they can",
    "chat": "talk, with a thread that is kept",
    "ingest": "read files and folders into the document store",
    "docs": "list, show, verify, export and remove documents of the store",
    "summarize": "summarize a text, a file or a folder",
    "classify": "choose among labels for a text or a table",
    "complete": "continue a text or code",
    "code": "write code, run it in the sandbox, say what was seen",
    "models": "list, show, pull and remove models",
    "threads": "list, show, export and remove conversations",
    "logs": "the log of questions and answers",
    "notes": "what you asked to be remembered, in every later conversation",
    "templates": "prompt templates for `ask -t`",
    "config": "show and set the settings",
    "mcp": "serve our tools to MCP clients",
    "completion": "print shell completion for bash, zsh or fish",
    "doctor": "check this machine and say what to do where something is missing",
}

PURPOSE = "A private assistant on this machine: a local model, your documents, and tools."

EXAMPLES = """\
examples:
  agent ask "what is double quantization?" --docs handbook/
  cat log.txt | agent ask "what went wrong?"
  agent ingest ~/notes && agent docs list
"""


def module_of(verb: str) -> str:
    """Import path of a verb's module."""
    return f"agent.cli.{verb}"
