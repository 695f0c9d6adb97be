"""What a tool may do, and whether a call to it must be asked about: the rule that lies outside the model.

Three kinds: `read` looks, `run` executes, `write` changes something. `run` and `write` ask. Once untrusted
text is in the context, every such call asks, whatever was allowed before; a `read` call asks too where its
arguments were copied from that text, so that a file or URL which only the text names is not opened. Knows
tools, messages and settings; shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AnyMessage
from langchain_core.tools import BaseTool

from agent.guard.taint import copied_arguments, trusted_words, unsaid_places, untrusted_sources

Kind = Literal["read", "run", "write"]
Verdict = Literal["allow", "ask", "deny"]
KINDS: tuple[Kind, ...] = ("read", "run", "write")

BUILT_IN: Mapping[str, Kind] = {
    "calculator": "read",
    "classify": "read",
    "read_file": "read",
    "remember": "write",
    "run_python": "run",
    "search_docs": "read",
    "summarize": "read",
    "write_code": "read",
}
"""write_code runs only its own checks, sandboxed, without files of the user; `kind_of` has the exception."""

OPENS_NOTHING = frozenset({"calculator", "classify", "search_docs", "summarize"})
"""Tools that open and change nothing, whatever their arguments: copied arguments do no harm there."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a call may go ahead, and everything a person needs to decide it."""

    verdict: Verdict
    kind: Kind
    why: str = ""
    origins: tuple[str, ...] = ()
    """Where the untrusted text in the context came from."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """Arguments taken from untrusted text, with its origin."""


def kind_of(tool: BaseTool, *, sandboxed: bool) -> Kind:
    """The kind of a tool: as its metadata says, as built in, else `write`, the one that always asks.

    `sandboxed` says that the first tier of the sandbox holds: without it write_code's own checks ask like any
    other run.
    """
    said = (tool.metadata or {}).get("kind")
    if said in KINDS:
        return KINDS[KINDS.index(said)]
    if tool.name == "write_code" and not sandboxed:
        return "run"
    return BUILT_IN.get(tool.name, "write")


def judge(
    *,
    name: str,
    kind: Kind,
    args: Mapping[str, Any],
    messages: Sequence[AnyMessage],
    approve: Literal["ask", "deny", "never-ask"],
    always: Iterable[str] = (),
) -> Judgement:
    """Judge one call against the messages before it.

    `approve` is the setting; `always` holds the tools that the user has allowed for this thread. Neither
    covers a call made while untrusted text is in the context.
    """
    sources = untrusted_sources(messages)
    origins = tuple(dict.fromkeys(source.origin for source in sources))
    copied = copied_arguments(args, sources, trusted_words(messages)) if sources else {}
    if kind == "read":
        if sources and name not in OPENS_NOTHING:
            copied = {**unsaid_places(args, trusted_words(messages)), **copied}
        if not copied or name in OPENS_NOTHING:
            return Judgement(verdict="allow", kind=kind, origins=origins, copied=copied)
        why = f"its arguments come from {_listed(copied.values())}, not from you"
    elif sources:
        why = f"text from {_listed(origins)} is in the conversation and may have asked for it"
    elif approve == "never-ask" or name in set(always):
        return Judgement(verdict="allow", kind=kind)
    else:
        why = "it runs code" if kind == "run" else "it may change something"
    return Judgement(
        verdict="ask" if approve == "ask" else "deny", kind=kind, why=why, origins=origins, copied=copied
    )


def describe(name: str, args: Mapping[str, Any], judgement: Judgement) -> str:
    """What will happen if the call is allowed, in full, and why it is asked about."""
    lines = [f"{name} ({judgement.kind}): {judgement.why}"]
    for key, value in args.items():
        mark = f"   <- from {judgement.copied[key]}" if key in judgement.copied else ""
        text = value if isinstance(value, str) else repr(value)
        if "\n" in text:
            lines += [f"  {key}:{mark}", *(f"    {row}" for row in text.splitlines())]
        else:
            lines.append(f"  {key}: {text}{mark}")
    return "\n".join(lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
