"""Running code against checks in a sandbox.

The harness (`harness.py`) runs in the sandbox next to the code and reports each check that ran to its end.
The code itself prints to the same output, so a report counts only if it carries a random token.
"""

from __future__ import annotations

import ast
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Protocol

from chains.code.request import CodeRequest, stated_properties
from chains.code.result import Check, CheckRun, CodeRun
from chains.code.source import function_in, made_up_arguments, needs_arguments


class RunResultLike(Protocol):
    """The fields of a run that are read here; `sandbox.RunResult` has them."""

    @property
    def status(self) -> str:
        """How it ended: "ok", "error", "timeout" and so on."""

    @property
    def stdout(self) -> str:
        """What the program printed."""

    @property
    def stderr(self) -> str:
        """What it printed to standard error."""


Run = Callable[..., RunResultLike]
"""`sandbox.Sandbox(...).run`: run(code, files=..., stdin=...)."""


def check(run: Run, request: CodeRequest, code: str, *, candidate: int, attempt: int) -> CodeRun:
    """Run one version of the code against all its checks, and return what was seen."""
    checks = checks_for(request, code)
    if not request.wants_function and not checks:
        return _run_program(run, code, candidate, attempt)
    token = secrets.token_hex(16)
    listed = json.dumps([asdict(one) for one in checks])
    harness = files("chains.code").joinpath("harness.py").read_text(encoding="utf-8")
    done = run(harness, files={"solution.py": code}, stdin=f"{token}\n{listed}\n")
    stdout, reports = _split(done.stdout, token)
    loaded = next((one for one in reports if "loaded" in one), None)
    if loaded is None or not loaded["loaded"]:
        why = loaded["detail"] if loaded else _ended(done)
        runs = tuple(CheckRun(check=one, passed=False, detail=why) for one in (*checks, *_loading(checks)))
    else:
        runs = tuple(_outcome(number, one, reports, done) for number, one in enumerate(checks))
    return CodeRun(
        candidate=candidate,
        attempt=attempt,
        code=code,
        status=done.status,
        stdout=stdout,
        stderr=done.stderr,
        checks=runs or (CheckRun(check=_loading(())[0], passed=done.status == "ok"),),
    )


def checks_for(request: CodeRequest, code: str) -> tuple[Check, ...]:
    """Return the user's checks, then those of what the request states, then the chain's own."""
    function = function_in(code, request.name)
    if function is None:
        return request.checks
    own = [Check(kind="smoke", source=f"callable({function.name})")]
    if not request.checks and isinstance(function, ast.FunctionDef):
        call = f"{function.name}({', '.join(made_up_arguments(function))})"
        own.append(Check(kind="smoke", source=call, made_up=True))
    stated = stated_properties(request, function.name, needs_arguments(function))
    return (*request.checks, *stated, *own)


def _loading(checks: Sequence[Check]) -> tuple[Check, ...]:
    return () if checks else (Check(kind="smoke", source="the code loads"),)


def _run_program(run: Run, code: str, candidate: int, attempt: int) -> CodeRun:
    done = run(code)
    ended = CheckRun(
        check=Check(kind="smoke", source="the program ends without an error"),
        passed=done.status == "ok",
        detail="" if done.status == "ok" else _ended(done),
    )
    return CodeRun(
        candidate=candidate,
        attempt=attempt,
        code=code,
        status=done.status,
        stdout=done.stdout,
        stderr=done.stderr,
        checks=(ended,),
    )


def _split(stdout: str, token: str) -> tuple[str, list[dict[str, Any]]]:
    """Return what the code printed itself, and the harness's reports."""
    own, reports = [], []
    for line in stdout.split("\n"):
        if line.startswith(token + " "):
            try:
                reports.append(json.loads(line[len(token) + 1 :]))
            except ValueError:  # the line was cut off at the output limit
                continue
        else:
            own.append(line)
    return "\n".join(own).strip("\n"), [one for one in reports if isinstance(one, dict)]


def _outcome(number: int, one: Check, reports: list[dict[str, Any]], done: RunResultLike) -> CheckRun:
    found = [report for report in reports if report.get("check") == number]
    if len(found) != 1:  # the check did not end, or the code found the token and wrote reports of its own
        return CheckRun(check=one, passed=False, detail=_ended(done))
    return CheckRun(
        check=one, passed=found[0].get("passed") is True, detail=str(found[0].get("detail") or "")
    )


def _ended(done: RunResultLike) -> str:
    words = {
        "ok": "the code ended the run before this was checked",
        "error": "the run ended with an error",
        "timeout": "it did not finish within its time",
        "memory": "it used more memory than it may",
        "output": "it printed more than it may",
        "processes": "it started more processes than it may",
        "files": "it made more files than it may",
        "killed": "it was killed",
    }
    last = done.stderr.strip().rpartition("\n")[2]
    return words.get(done.status, done.status) + (f": {last}" if last else "")
