"""code_chain: a request in, code that was run out.

Knows the order of the steps (plan, write, run, repair, choose); each lives in a file of its own. The claim it
makes about the code is `result.CodeResult.status`, and that is read off the runs alone, never off the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from chains.code import checks, write
from chains.code.checks import Run
from chains.code.request import Request, completed, read_request
from chains.code.result import USERS_OWN, CodeEvent, CodeResult, CodeRun, CodeStatus
from chains.code.source import fallback
from chains.errors import OptionError
from chains.options import require_model, require_whole
from chains.runnable import generator_chain

CodeInput = str | Mapping[str, Any]


def code_chain(
    llm: write.Model, run: Run, *, repairs: int = 2, candidates: int = 1
) -> Runnable[CodeInput, CodeResult]:
    """Write code for a request, run it, and say truthfully what was seen.

    Args:
        llm: any LangChain chat model or LLM.
        run: runs a program and returns its result: `sandbox.Sandbox(...).run`.
        repairs: how often a version that fails goes back to the model with its error, 0 to 10; where it comes
            back unchanged, another is written at temperature 0.8 instead.
        candidates: how many versions are written independently, 1 to 16; the later ones at temperature 0.8.
            The first that passes everything ends the search, else the one that passes most is returned.

    Returns:
        A Runnable of `str | {"request", "examples", "signature"}` to `CodeResult`: examples are expressions
        that must be true ("f(2) == 4"), a signature is kept word for word, docstring included. The
        stream yields a `CodeEvent` a step, then the `CodeResult`.

    Raises:
        OptionError: an option is out of its range.
        InputError: (when run) no request, or one with an unknown key; an example or a signature that is not
            Python.
    """
    require_whole("repairs", repairs, 0, 10)
    require_whole("candidates", candidates, 1, 16)
    if not callable(run):
        raise OptionError(f"expected run to be a function that runs code, found {run!r}: pass Sandbox().run")
    steps = _Steps(llm=require_model(llm), run=run, repairs=repairs, candidates=candidates)
    return generator_chain(steps.stream, name="code_chain", result=CodeResult)


@dataclass(frozen=True, kw_only=True)
class _Steps:
    llm: write.Model
    run: Run
    repairs: int
    candidates: int

    def stream(self, given: CodeInput, config: RunnableConfig) -> Iterator[CodeEvent | CodeResult]:
        request = read_request(given)
        stub, name = write.plan(self.llm, request, config)
        yield CodeEvent(step="plan", text=_planned(request, stub))
        if name and not request.name:
            request = Request(**{**vars(request), "name": name})
        runs: list[CodeRun] = []
        for candidate in range(self.candidates):
            for event in self._one(request, stub, candidate, config):
                if event.run is not None:
                    runs.append(event.run)
                yield event
            if runs[-1].passed:
                break
        yield from _chosen(request, runs, stub)

    def _one(
        self, request: Request, stub: str, candidate: int, config: RunnableConfig
    ) -> Iterator[CodeEvent]:
        """Write one candidate, run it, and repair it until it passes or the repairs are used up."""
        model = self._model(candidate)
        code = write.write(model, request, stub, config)
        yield CodeEvent(step="write", text=code or "no code that parses", candidate=candidate)
        tried: set[str] = set()
        for attempt in range(self.repairs + 1):
            last = self._checked(request, code, candidate, attempt)
            told = _told(last)
            yield CodeEvent(step="run", text=told, candidate=candidate, attempt=attempt, run=last)
            if last.passed or attempt == self.repairs:
                return
            tried.add(code)
            code = write.repair(model, request, stub, last, config)
            if not code or code in tried:  # what failed would fail again: a small model mostly repeats itself
                other = write.sampled(self.llm, seed=candidate * 100 + attempt + 1)
                code = write.write(other, request, stub, config)
            text = code or "no code that parses"
            yield CodeEvent(step="repair", text=text, candidate=candidate, attempt=attempt + 1)

    def _checked(self, request: Request, code: str, candidate: int, attempt: int) -> CodeRun:
        if not code:
            return CodeRun(candidate=candidate, attempt=attempt, code="", status="no code")
        return checks.check(self.run, request, code, candidate=candidate, attempt=attempt)

    def _model(self, candidate: int) -> write.Model:
        """The model itself first; later candidates must differ, so they are sampled."""
        return self.llm if candidate == 0 else write.sampled(self.llm, seed=candidate * 100)


def _planned(request: Request, stub: str) -> str:
    what = completed(stub, "...") if stub else "a function" if request.wants_function else "a program"
    own = [one.source.strip() for one in request.checks]
    return what + ("\nchecks: " + "; ".join(own) if own else "")


def _told(run: CodeRun) -> str:
    if not run.code:
        return run.problem()
    passed = sum(one.passed for one in run.checks)
    told = f"{passed} of {len(run.checks)} checks passed"
    return told if run.passed else f"{told}: {run.problem()}"


def _chosen(request: Request, runs: list[CodeRun], stub: str) -> Iterator[CodeEvent | CodeResult]:
    """The version that passes most, the earlier of equal ones."""
    best = max(runs, key=lambda run: (run.passed, run.counts(), bool(run.code), -run.candidate, -run.attempt))
    status = _status(request, best)
    if len(runs) > 1:
        text = f"version {best.attempt} of candidate {best.candidate}"
        yield CodeEvent(step="choose", text=text, candidate=best.candidate, attempt=best.attempt)
    code = best.code or fallback(stub, request.name)
    yield CodeResult(code=code, status=status, runs=tuple(runs), explanation=_explained(status, best))


def _status(request: Request, best: CodeRun) -> CodeStatus:
    """What was seen, and no more: every one of the user's own checks, by name, must be among those passed."""
    if not best.passed:
        return "failed"
    passed = {one.check for one in best.checks if one.passed}
    if request.checks and set(request.checks) <= passed:
        return "examples"
    return "failed" if request.checks else "ran"


def _what_ran(best: CodeRun) -> str:
    """What was called, and how that went: code that only loaded did not run."""
    calls = [one for one in best.checks if one.check.made_up]
    if not calls:
        loaded = any(one.check.source.startswith("callable(") for one in best.checks)
        return "It loads; the function was not called." if loaded else "It was run without an error."
    call = calls[0].check.source
    if calls[0].detail:
        error = calls[0].detail.strip().rpartition("\n")[2]
        return f"It loads; called with made-up arguments, {call}, it raised {error}."
    return f"It was run without an error, as {call}."


def _explained(status: CodeStatus, best: CodeRun) -> str:
    own = sum(one.check.kind in USERS_OWN for one in best.checks)
    stated = [one.check.source for one in best.checks if one.check.kind == "property" and one.passed]
    if status == "examples":
        return f"It was run, and {'your example' if own == 1 else f'all {own} of your examples'} passed."
    if status == "ran":
        seen = f" What the request states held: {'; '.join(stated)}." if stated else ""
        return f"{_what_ran(best)} There was no example of yours to check it against.{seen}"
    if not best.code:
        return "The model wrote no such function that parses; what is returned is an empty one."
    return f"It does not do what was asked: {best.problem()}"
