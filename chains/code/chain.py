"""Asks the model: for a signature, for code, for a repair. Knows the prompts; runs nothing.

code_chain: a request in, code that was run out.

Knows the order of the steps (plan, write, run, repair, choose); each lives in a file of its own. The claim it
makes about the code is `result.CodeResult.status`, and that is read off the runs alone, never off the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.code import checks
from chains.code.checks import Run
from chains.code.fixups import fit_signature, with_missing_imports
from chains.code.request import Request, completed, parses_as_stub, read_request, stated_properties
from chains.code.result import USERS_OWN, CodeEvent, CodeResult, CodeRun, CodeStatus
from chains.code.source import (
    code_of,
    fallback,
    function_in,
    under_name,
    under_stub,
    without_demonstrations,
)
from chains.errors import OptionError
from chains.options import require_model, require_whole
from chains.prompts import load_prompt
from chains.runnable import generator_chain
from llms.protocols import Seeded, find

Model = Runnable[LanguageModelInput, Any]
_PROBLEM = 1200
_OTHERS_TEMPERATURE = 0.8


def plan(model: Model, request: Request, config: RunnableConfig) -> tuple[str, str | None]:
    """(stub, function name): the user's own where there is one, else the first line the model proposes.

    A proposal that is no Python is dropped: the model then chooses while it writes.
    """
    if request.stub or not request.wants_function:
        return request.stub, request.name
    reply = _text(model.invoke(_prompt("plan", request=request.text), config))
    line = next(iter(re.findall(r"def \w+\(.*", reply)), "").strip().strip("`")
    line = line if line.endswith(":") else line + ":"
    if not parses_as_stub(line):
        return "", request.name
    if stated_properties(request, "f", needs_arguments=False):  # it states its numbers, so it takes none
        line = re.sub(r"\(.*?\)", "()", line, count=1)
    if request.name is not None:  # the user's examples call it by another name
        line = re.sub(r"def \w+\(", f"def {request.name}(", line, count=1)
        line = fit_signature(line, request.checks)
    function = function_in(line + "\n    pass", None)
    return line, function.name if function else request.name


def write(model: Model, request: Request, stub: str, config: RunnableConfig) -> str:
    """A first version; "" if the reply held nothing that parses."""
    if not request.wants_function:
        return with_missing_imports(
            code_of(_text(model.invoke(_prompt("script", request=request.text), config)))
        )
    signature = stub or f"def {request.name or 'solution'}(...):"
    prompt = _prompt("write", signature=signature, request=_asked(request), examples=_examples(request))
    return with_missing_imports(fitted(_text(model.invoke(prompt, config)), request, stub))


def repair(model: Model, request: Request, stub: str, last: CodeRun, config: RunnableConfig) -> str:
    """The next version, the last one's error in the prompt; "" if nothing parses."""
    code = last.code or fallback(stub, request.name)
    prompt = _prompt(
        "repair",
        code=code.rstrip(),
        problem=last.problem()[:_PROBLEM],
        request=_asked(request),
        examples=_examples(request),
    )
    reply = _text(model.invoke(prompt, config))
    return with_missing_imports(fitted(reply, request, stub) if request.wants_function else code_of(reply))


def sampled(model: Model, seed: int) -> Model:
    """The model at a temperature at which replies differ; with a field `seed`, each seed's stay the same."""
    if not hasattr(model, "bind"):
        return model
    options: dict[str, Any] = {"temperature": _OTHERS_TEMPERATURE}
    if find(model, Seeded) is not None:
        options["seed"] = seed
    return model.bind(**options)


def fitted(reply: str, request: Request, stub: str) -> str:
    """The code of a reply under the user's signature; "" if it lacks the function."""
    code = code_of(reply)
    if request.stub and request.name:
        return under_stub(code, request.stub, request.name) if code else ""
    if not code or not request.wants_function:
        return code
    function = function_in(code, request.name) or function_in(code, None)
    if function is None:
        return ""
    if request.name and function.name != request.name:
        code = under_name(code, function.name, request.name)
    return without_demonstrations(code) if request.checks else code


def _asked(request: Request) -> str:
    """The request without the code that the signature shows already."""
    rest = request.text.replace(request.stub, "").strip() if request.stub else request.text
    return rest or "write the body of this function as its docstring says"


def _examples(request: Request) -> str:
    own = [one.source.strip() for one in request.checks if one.kind == "example"]
    return "\nThese must be true:\n" + "\n".join(own) if own else ""


def _prompt(name: str, **fields: str) -> list[HumanMessage]:
    return [HumanMessage(load_prompt("chains.code", name).substitute(fields))]


def _text(reply: Any) -> str:
    text = getattr(reply, "text", reply)
    return text() if callable(text) and not isinstance(text, str) else str(text)


CodeInput = str | Mapping[str, Any]


def code_chain(
    llm: Model, run: Run, *, repairs: int = 2, candidates: int = 1
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
    llm: Model
    run: Run
    repairs: int
    candidates: int

    def stream(self, given: CodeInput, config: RunnableConfig) -> Iterator[CodeEvent | CodeResult]:
        request = read_request(given)
        stub, name = plan(self.llm, request, config)
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
        code = write(model, request, stub, config)
        yield CodeEvent(step="write", text=code or "no code that parses", candidate=candidate)
        tried: set[str] = set()
        for attempt in range(self.repairs + 1):
            last = self._checked(request, code, candidate, attempt)
            told = _told(last)
            yield CodeEvent(step="run", text=told, candidate=candidate, attempt=attempt, run=last)
            if last.passed or attempt == self.repairs:
                return
            tried.add(code)
            code = repair(model, request, stub, last, config)
            if not code or code in tried:  # what failed would fail again: a small model mostly repeats itself
                other = sampled(self.llm, seed=candidate * 100 + attempt + 1)
                code = write(other, request, stub, config)
            text = code or "no code that parses"
            yield CodeEvent(step="repair", text=text, candidate=candidate, attempt=attempt + 1)

    def _checked(self, request: Request, code: str, candidate: int, attempt: int) -> CodeRun:
        if not code:
            return CodeRun(candidate=candidate, attempt=attempt, code="", status="no code")
        return checks.check(self.run, request, code, candidate=candidate, attempt=attempt)

    def _model(self, candidate: int) -> Model:
        """The model itself first; later candidates must differ, so they are sampled."""
        return self.llm if candidate == 0 else sampled(self.llm, seed=candidate * 100)


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
