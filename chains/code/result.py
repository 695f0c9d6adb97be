"""The result of `code_chain`: the code, the runs of each version, and what the checks showed.

    >>> held = CheckRun(check=Check(kind="example", source="double(2) == 4"), passed=True)
    >>> run = CodeRun(candidate=0, attempt=0, code="...", status="ok", checks=(held,))
    >>> CodeResult(code=run.code, status="examples", runs=(run,)).verified
    True

Checkpoints name these classes by their module, so they stay in this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from chains.records import restore_tuples

Kind = Literal["example", "doctest", "property", "smoke"]
CodeStatus = Literal["examples", "ran", "failed"]
Step = Literal["plan", "write", "run", "repair", "choose"]

USERS_OWN: tuple[Kind, ...] = ("example", "doctest")
"""Kinds of checks that the user wrote. A "property" is read from the request; "smoke" is the chain's own."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of the code.

    Attributes:
        kind: Who wrote it, see `USERS_OWN`.
        source: An expression that must be true, or the statement of a doctest.
        want: For a doctest, what it must print; else None.
        made_up: The check calls the function with arguments that the chain made up. An error that they may
            have caused is reported, but does not fail the check.
    """

    kind: Kind
    source: str
    want: str | None = None
    made_up: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckRun:
    """The outcome of a check.

    Attributes:
        check: The check.
        passed: True if it ran to its end and held. A check that was not reached has not passed.
        detail: What was found instead, or the error.
    """

    check: Check
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CodeRun:
    """The run of one version of the code.

    Attributes:
        candidate: Number of the candidate, from 0.
        attempt: 0 for the first version of the candidate, then the number of the repair.
        code: The code, or "" if the model's reply contained nothing that parses.
        status: How the run ended ("ok", "error", "timeout", "memory", ...), or "no code".
        stdout: What the code printed. Untrusted.
        stderr: What the code printed to standard error. Untrusted.
        checks: The checks, in order.
    """

    candidate: int
    attempt: int
    code: str
    status: str
    stdout: str = ""
    stderr: str = ""
    checks: tuple[CheckRun, ...] = ()

    def __post_init__(self) -> None:
        """Keep tuples as tuples."""
        restore_tuples(self)

    @property
    def passed(self) -> bool:
        """True if there are checks and all of them passed."""
        return bool(self.checks) and all(one.passed for one in self.checks)

    def counts(self) -> tuple[int, ...]:
        """Return the number of passed checks by kind, the user's own first, to compare versions."""
        order: tuple[tuple[Kind, ...], ...] = (USERS_OWN, ("property",), ("smoke",))
        return tuple(sum(one.passed and one.check.kind in kinds for one in self.checks) for kinds in order)

    def problem(self) -> str:
        """Return the first thing that went wrong, for the model and the user, or "" if nothing did."""
        if not self.code:
            return "The reply held no Python code that parses."
        for one in self.checks:
            if not one.passed:
                return f"{one.check.source.strip()}\n{one.detail}".strip()
        return "" if self.passed else self.stderr.strip()[-800:]


@dataclass(frozen=True, kw_only=True)
class CodeResult:
    """Code that was run, and what was seen.

    Attributes:
        code: Python that always parses.
        status: "examples" if the user passed examples and all of them held, "ran" if the code ran and there
            were none, else "failed". It follows from the runs alone, never from what the model says.
        runs: Every version that was tried, in order.
        explanation: One or two sentences on what was seen and what was not.
    """

    code: str
    status: CodeStatus
    runs: tuple[CodeRun, ...] = ()
    explanation: str = ""

    def __post_init__(self) -> None:
        """Keep tuples as tuples."""
        restore_tuples(self)

    @property
    def verified(self) -> bool:
        """True if the user's own examples ran and held."""
        return self.status == "examples"


@dataclass(frozen=True, kw_only=True)
class CodeEvent:
    """A step of the chain, streamed when it is taken; `event + result` is the result."""

    step: Step
    text: str
    candidate: int = 0
    attempt: int = 0
    run: CodeRun | None = field(default=None, repr=False)

    def __add__(self, other: Any) -> Any:
        return other
