"""The rule outside the model that says what a tool may do, and which calls a person is asked about.

There are three kinds of tools: `read` looks, `run` executes, `write` changes something. Calls of `run` and
`write` ask. Once untrusted text is in the conversation, every such call asks, whatever was allowed before. A
`read` call asks, too, if its arguments were copied from that text, so that a file or URL which only the text
names is not opened.

    >>> judge(name="run_python", kind="run", args={"code": "1"}, messages=[], approve="ask").verdict
    'ask'
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
"""`write_code` only reads, because its checks run in a sandbox without the user's files; see `kind_of`."""

OPENS_NOTHING = frozenset({"calculator", "classify", "search_docs", "summarize"})
"""Tools that open and change nothing, so copied arguments do no harm there."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a call may run, and everything that a person needs to decide about it."""

    verdict: Verdict
    kind: Kind
    why: str = ""
    origins: tuple[str, ...] = ()
    """Where the untrusted text in the conversation came from."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """Origins of the arguments that were taken from untrusted text, by argument."""


def kind_of(tool: BaseTool, *, sandboxed: bool) -> Kind:
    """Return the kind of a tool: what its metadata says, else the built-in kind, else `write`.

    Without the sandbox's first tier (`sandboxed`), the checks of `write_code` ask like any other run.
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
    """Return the judgement of one call, given the messages before it.

    Neither the setting `approve` nor `always`, the tools that the user has allowed for this thread, covers a
    call that is made while untrusted text is in the conversation.
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
    """Return in full what the call will do if it is allowed, and why it is asked about."""
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
