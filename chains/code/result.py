"""What comes out of the code chain: the code, what was run of it and what that showed. Data only.

`status` says no more than was seen: "examples" if the user's own examples were there and all passed, "ran" if
it ran and there was nothing of the user's to check against, "failed" otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["example", "doctest", "property", "smoke"]
CodeStatus = Literal["examples", "ran", "failed"]
Step = Literal["plan", "write", "run", "repair", "choose"]

USERS_OWN: tuple[Kind, ...] = ("example", "doctest")
"""Kinds of checks that the user wrote; a property is read out of the request, a smoke check is ours."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to try.

    Attributes:
        kind: whose it is, see `USERS_OWN`.
        source: an expression that must be true, or for a doctest the statement to run.
        want: for a doctest, what it must print; else None.
        made_up: a call with arguments that nobody gave: an error that they may have caused is told, but is no
            failure.
    """

    kind: Kind
    source: str
    want: str | None = None
    made_up: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckRun:
    """What became of a check.

    Attributes:
        check: the check.
        passed: it was run to its end and held. A check that was never reached did not pass.
        detail: what was found instead, or the error; of a call with made-up arguments, the error it raised.
    """

    check: Check
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CodeRun:
    """One version of the code and its run.

    Attributes:
        candidate: which of the candidates, from 0.
        attempt: 0 for the first version, then the repairs.
        code: what was run; empty if the model's reply held nothing that parses.
        status: of the run ("ok", "error", "timeout", "memory", ...), or "no code".
        stdout: what the code printed itself. Untrusted.
        stderr: likewise.
        checks: the checks, in order.
    """

    candidate: int
    attempt: int
    code: str
    status: str
    stdout: str = ""
    stderr: str = ""
    checks: tuple[CheckRun, ...] = ()

    @property
    def passed(self) -> bool:
        """Every check was run and held."""
        return bool(self.checks) and all(one.passed for one in self.checks)

    def counts(self) -> tuple[int, ...]:
        """Checks passed by kind, the user's own first: the order in which versions are preferred."""
        order: tuple[tuple[Kind, ...], ...] = (USERS_OWN, ("property",), ("smoke",))
        return tuple(sum(one.passed and one.check.kind in kinds for one in self.checks) for kinds in order)

    def problem(self) -> str:
        """What went wrong first, for the model and for the user; empty if nothing did."""
        if not self.code:
            return "The reply held no Python code that parses."
        for one in self.checks:
            if not one.passed:
                return f"{one.check.source.strip()}\n{one.detail}".strip()
        return "" if self.passed else self.stderr.strip()[-800:]


@dataclass(frozen=True, kw_only=True)
class CodeResult:
    """The code chain's answer.

    Attributes:
        code: Python that parses, always.
        status: see the module's docstring.
        runs: every version that was tried, in order.
        explanation: one or two sentences on what was and was not seen.
    """

    code: str
    status: CodeStatus
    runs: tuple[CodeRun, ...] = ()
    explanation: str = ""

    @property
    def verified(self) -> bool:
        """Whether the user's own examples were run and passed."""
        return self.status == "examples"


@dataclass(frozen=True, kw_only=True)
class CodeEvent:
    """A step of the chain, streamed as it is taken; `event + result` is the result, as LangChain folds it."""

    step: Step
    text: str
    candidate: int = 0
    attempt: int = 0
    run: CodeRun | None = field(default=None, repr=False)

    def __add__(self, other: Any) -> Any:
        return other
