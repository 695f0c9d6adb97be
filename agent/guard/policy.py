"""The rule outside the model: which tool calls run, which a person is asked about, and which are refused.

A tool says in its metadata what it does (`kind`) and how far a call can carry data (`reaches`):

    >>> from langchain_core.tools import tool
    >>> @tool
    ... def order_status(number: int) -> str:
    ...     "Look up an order in the shop's database."
    ...     return "sent"
    >>> order_status.metadata = {"kind": "read", "reaches": "machine"}
    >>> rule_of(order_status).reaches
    'machine'

Whatever says nothing counts as `write` and `outside`. The conversation has labels (`agent.guard.labels`). The
rule looks at these facts alone and at no text, so no wording and no disguise changes it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from langchain_core.messages import AnyMessage
from langchain_core.tools import BaseTool

from agent.guard.labels import CLEAN, Labels, both, occurrences

Kind = Literal["read", "run", "write"]
Reach = Literal["nothing", "machine", "outside"]
Verdict = Literal["allow", "ask", "deny"]
Approve = Literal["ask", "deny", "never-ask"]
Scope = Literal["clean", "untrusted"]


@dataclass(frozen=True, kw_only=True)
class ToolRule:
    """What is known about a tool before it is called; `rule_of` reads it from the tool's metadata."""

    kind: Kind = "write"
    """`read` looks, `run` executes code, `write` changes something."""
    reaches: Reach = "outside"
    """How far a call can carry data: `nothing` sees only its arguments, `machine` also the user's store and
    files, `outside` another machine or person."""
    own_result: bool = False
    """The result holds nothing but what the call gave the tool, so it adds no label to the conversation."""
    described_by: str | None = None
    """Origin of the tool's description if somebody else wrote it; the model reads it in every turn."""
    identity: str = ""
    """Stands for this tool, its description and its metadata; another tool of the same name has another."""

    def grant(self, scope: Scope) -> str:
        """Return the entry of the state's `allowed_tools` that allows this tool unasked."""
        return f"{self.identity} {scope}"

    def result_labels(self, name: str) -> Labels:
        """Return the labels of the tool's results."""
        return CLEAN if self.own_result else both(f"tool {name}")


def rule_of(tool: BaseTool) -> ToolRule:
    """Return the rule of a tool, as its metadata says it.

    The keys are `kind`, `reaches`, `result` ("own" says that a result holds nothing but the call's arguments,
    which is assumed of a tool that reaches nothing) and `described_by`.
    """
    said: Mapping[str, Any] = tool.metadata or {}
    kind: Kind = said["kind"] if said.get("kind") in get_args(Kind) else "write"
    reaches: Reach = said["reaches"] if said.get("reaches") in get_args(Reach) else "outside"
    facts = json.dumps([tool.name, tool.description, tool.args, said], sort_keys=True, default=str)
    return ToolRule(
        kind=kind,
        reaches=reaches,
        own_result=said.get("result", "own" if reaches == "nothing" else "") == "own",
        described_by=said.get("described_by"),
        identity=f"{tool.name}#{hashlib.sha256(facts.encode()).hexdigest()[:16]}",
    )


def verdict(rule: ToolRule, labels: Labels, approve: Approve, allowed: Collection[str] = ()) -> Verdict:
    """Return whether a call runs.

    "Acts" stands for a call that writes, reaches outside, or runs code outside the sandbox.

    | conversation       | call                  | verdict                                            |
    |--------------------|-----------------------|----------------------------------------------------|
    | any                | does not act          | allow: what it sees can leave only by one that acts |
    | untrusted          | acts, inside          | ask, unless the user allowed it with such text too  |
    | untrusted, private | reaches outside       | ask                                                |
    | clean              | acts                  | as the setting says, or ask once for "always"       |
    | private only       | acts, inside          | as the setting says, or ask once for "always"       |

    Args:
        rule: What the tool does.
        labels: What is in the conversation.
        approve: The setting. If a call must ask and this is not "ask", nobody can be asked: it is denied.
        allowed: Grants of the user for this thread (`ToolRule.grant`).
    """
    outside = rule.reaches == "outside"
    inside_sandbox = rule.kind == "run" and rule.reaches == "nothing"
    if not outside and (rule.kind == "read" or inside_sandbox):
        return "allow"
    asked: Verdict = "ask" if approve == "ask" else "deny"
    if outside and labels:
        return asked
    if labels.untrusted:
        return "allow" if rule.grant("untrusted") in allowed else asked
    if approve == "never-ask" or rule.grant("clean") in allowed or rule.grant("untrusted") in allowed:
        return "allow"
    return asked


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on a call, and everything that a person needs to decide about it."""

    verdict: Verdict
    rule: ToolRule
    why: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)
    """Origins of the untrusted text in which an argument occurs, by argument."""
    always: Scope | None = None
    """What "always" would cover; None if this call has to be asked about each time."""


def judge(
    rule: ToolRule,
    args: Mapping[str, Any],
    labels: Labels,
    messages: Sequence[AnyMessage] = (),
    *,
    approve: Approve,
    allowed: Collection[str] = (),
) -> Judgement:
    """Return the judgement of one call; `messages` are searched for hints alone.

    >>> judge(ToolRule(kind="run", reaches="nothing"), {"code": "1"}, both("a.md"), approve="deny").verdict
    'allow'
    """
    found = verdict(rule, labels, approve, allowed)
    if found == "allow":
        return Judgement(verdict=found, rule=rule)
    outside = rule.reaches == "outside"
    always: Scope | None = None if outside and labels else "untrusted" if labels.untrusted else "clean"
    return Judgement(
        verdict=found,
        rule=rule,
        why=_reason(rule, labels),
        hints=occurrences(args, messages) if labels.untrusted else {},
        always=always,
    )


def _reason(rule: ToolRule, labels: Labels) -> str:
    if labels.untrusted:
        return f"text from {', '.join(labels.untrusted)} is in the conversation and may have asked for it"
    if rule.reaches == "outside" and labels.private:
        return f"it can carry data away, and text from {', '.join(labels.private)} is in the conversation"
    if rule.kind == "run":
        return "it runs code outside the sandbox"
    return "it sends its arguments away" if rule.kind == "read" else "it may change something"


def describe(name: str, args: Mapping[str, Any], judgement: Judgement) -> str:
    """Return in full what the call will do if it is allowed, and why it is asked about.

    Characters that a terminal or a browser does not show, or that change the order of others, are written as
    escapes, so that what is read is what will be done.
    """
    rule = judgement.rule
    lines = [f"{visible(name)} ({rule.kind}, reaches {rule.reaches}): {visible(judgement.why)}"]
    for key, value in args.items():
        hint = judgement.hints.get(key)
        mark = f"   <- also in {visible(hint)}" if hint else ""
        text = value if isinstance(value, str) else repr(value)
        shown = visible(key)
        if "\n" in text:
            lines += [f"  {shown}:{mark}", *(f"    {visible(row)}" for row in text.split("\n"))]
        else:
            lines.append(f"  {shown}: {visible(text)}{mark}")
    return "\n".join(lines)


def visible(text: str) -> str:
    r"""Return one line of text with every invisible and reordering character as an escape.

    >>> visible("a\u202eb\nc\u200bd")
    'a\\u202eb\\nc\\u200bd'
    """
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_shown(character: str) -> bool:
    if character in " \t":
        return True
    # Control, format, private and unassigned characters, line separators, unusual spaces and lone surrogates.
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp", "Zs"):
        return False
    # Letters and marks that are drawn as nothing: Hangul fillers, Braille blank, variation selectors.
    return character not in "\u115f\u1160\u3164\uffa0\u2800\u034f" and not (
        "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    )
