"""code_chain: writes code for a request, runs it, repairs it, and says truthfully what was seen.

The steps are plan (a signature), write, run, repair, and choose among the versions. `CodeResult.status`
follows from the runs alone, never from what the model says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.code import checks, fixups
from chains.code.checks import Run
from chains.code.request import CodeRequest, completed, parses_as_stub, read_request
from chains.code.result import USERS_OWN, CodeEvent, CodeResult, CodeRun, CodeStatus
from chains.code.source import code_of, fallback, function_in
from chains.errors import OptionError
from chains.options import require_model, require_whole
from chains.prompts import load_prompt
from chains.runnable import generator_chain
from llms.protocols import Seeded, find

CodeInput = str | Mapping[str, Any]
Model = Runnable[LanguageModelInput, Any]
SAMPLING_TEMPERATURE = 0.8
"""Temperature of versions that must differ from an earlier one."""
PROBLEM_CHARS = 1200
"""Most characters of an error that a repair prompt quotes."""


def code_chain(
    llm: Model, run: Run, *, repairs: int = 2, candidates: int = 1
) -> Runnable[CodeInput, CodeResult]:
    """Return a chain that writes code for a request and runs it.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> from sandbox import Sandbox
    >>> replies = ["def double(n: int) -> int:", "def double(n): return n * 2"]
    >>> chain = code_chain(FakeListChatModel(responses=replies), Sandbox().run)
    >>> result = chain.invoke({"request": "Write a function that doubles", "examples": ["double(2) == 4"]})
    >>> result.status, result.explanation
    ('examples', 'It was run, and your example passed.')

    Args:
        llm: Any LangChain chat model or LLM.
        run: Runs a program and returns its result, as `sandbox.Sandbox(...).run` does.
        repairs: How often a version that fails goes back to the model with its error, 0 to 10. If it comes
            back unchanged, another version is written at temperature 0.8.
        candidates: Number of versions that are written independently, 1 to 16; the later ones at temperature
            0.8. The first that passes everything ends the search, else the one that passes most is returned.

    Returns:
        A Runnable from a request, or {"request", "examples", "signature"}, to a `CodeResult`. Examples are
        expressions that must be true ("f(2) == 4"). A signature is kept word for word, with its docstring.
        The stream yields a `CodeEvent` for each step, then the `CodeResult`.

    Raises:
        OptionError: An option is out of range.
        InputError: (when run) There is no request, a key is unknown, or an example or the signature is not
            Python.
    """
    require_whole("repairs", repairs, 0, 10)
    require_whole("candidates", candidates, 1, 16)
    if not callable(run):
        raise OptionError(f"expected run to be a function that runs code, found {run!r}: pass Sandbox().run")
    pipeline = _CodePipeline(llm=require_model(llm), run=run, repairs=repairs, candidates=candidates)
    return generator_chain(pipeline.stream, name="code_chain", result=CodeResult)


@dataclass(frozen=True, kw_only=True)
class _CodePipeline:
    llm: Model
    run: Run
    repairs: int
    candidates: int

    def stream(self, given: CodeInput, config: RunnableConfig) -> Iterator[CodeEvent | CodeResult]:
        request = read_request(given)
        stub, name = plan(self.llm, request, config)
        yield CodeEvent(step="plan", text=_planned(request, stub))
        if name and not request.name:
            request = replace(request, name=name)
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
        self, request: CodeRequest, stub: str, candidate: int, config: RunnableConfig
    ) -> Iterator[CodeEvent]:
        """Write one candidate, run it, and repair it until it passes or no repairs are left."""
        model = self._model(candidate)
        code = write(model, request, stub, config)
        yield CodeEvent(step="write", text=code or "no code that parses", candidate=candidate)
        tried: set[str] = set()
        for attempt in range(self.repairs + 1):
            last = self._checked(request, code, candidate, attempt)
            yield CodeEvent(step="run", text=_seen(last), candidate=candidate, attempt=attempt, run=last)
            if last.passed or attempt == self.repairs:
                return
            tried.add(code)
            code = repair(model, request, stub, last, config)
            if not code or code in tried:  # a version that failed would fail again
                other = sampled(self.llm, seed=candidate * 100 + attempt + 1)
                code = write(other, request, stub, config)
            text = code or "no code that parses"
            yield CodeEvent(step="repair", text=text, candidate=candidate, attempt=attempt + 1)

    def _checked(self, request: CodeRequest, code: str, candidate: int, attempt: int) -> CodeRun:
        if not code:
            return CodeRun(candidate=candidate, attempt=attempt, code="", status="no code")
        return checks.check(self.run, request, code, candidate=candidate, attempt=attempt)

    def _model(self, candidate: int) -> Model:
        """Return the model itself for the first candidate, and a sampled one for the others, to differ."""
        return self.llm if candidate == 0 else sampled(self.llm, seed=candidate * 100)


# Asking the model.


def plan(model: Model, request: CodeRequest, config: RunnableConfig) -> tuple[str, str | None]:
    """Return the stub and the name of the function: the user's, or those that the model proposes.

    A proposal that is not Python is dropped; the model then chooses a signature while it writes.
    """
    if request.stub or not request.wants_function:
        return request.stub, request.name
    reply = _text(model.invoke(_prompt("plan", request=request.text), config))
    line = next(iter(re.findall(r"def \w+\(.*", reply)), "").strip().strip("`")
    line = line if line.endswith(":") else line + ":"
    if not parses_as_stub(line):
        return "", request.name
    line = fixups.fix_signature(line, request)
    function = function_in(line + "\n    pass", None)
    return line, function.name if function else request.name


def write(model: Model, request: CodeRequest, stub: str, config: RunnableConfig) -> str:
    """Return a first version, or "" if the reply contains nothing that parses."""
    if not request.wants_function:
        prompt = _prompt("script", request=request.text)
    else:
        signature = stub or f"def {request.name or 'solution'}(...):"
        prompt = _prompt("write", signature=signature, request=_asked(request), examples=_examples(request))
    return _code(model.invoke(prompt, config), request)


def repair(model: Model, request: CodeRequest, stub: str, last: CodeRun, config: RunnableConfig) -> str:
    """Return the next version, for which the prompt quotes the last error; "" if nothing parses."""
    code = last.code or fallback(stub, request.name)
    prompt = _prompt(
        "repair",
        code=code.rstrip(),
        problem=last.problem()[:PROBLEM_CHARS],
        request=_asked(request),
        examples=_examples(request),
    )
    return _code(model.invoke(prompt, config), request)


def sampled(model: Model, seed: int) -> Model:
    """Return the model at a temperature at which replies differ, with `seed` if it takes one."""
    if not hasattr(model, "bind"):
        return model
    options: dict[str, Any] = {"temperature": SAMPLING_TEMPERATURE}
    if find(model, Seeded) is not None:
        options["seed"] = seed
    return model.bind(**options)


def _code(reply: Any, request: CodeRequest) -> str:
    return fixups.fix_code(code_of(_text(reply)), request)


def _asked(request: CodeRequest) -> str:
    """Return the request without the code that the signature shows already."""
    rest = request.text.replace(request.stub, "").strip() if request.stub else request.text
    return rest or "write the body of this function as its docstring says"


def _examples(request: CodeRequest) -> str:
    own = [one.source.strip() for one in request.checks if one.kind == "example"]
    return "\nThese must be true:\n" + "\n".join(own) if own else ""


def _prompt(name: str, **fields: str) -> list[HumanMessage]:
    return [HumanMessage(load_prompt("chains.code", name).substitute(fields))]


def _text(reply: Any) -> str:
    text = getattr(reply, "text", reply)
    return text() if callable(text) and not isinstance(text, str) else str(text)


# Saying what was seen.


def _planned(request: CodeRequest, stub: str) -> str:
    what = completed(stub, "...") if stub else "a function" if request.wants_function else "a program"
    own = [one.source.strip() for one in request.checks]
    return what + ("\nchecks: " + "; ".join(own) if own else "")


def _seen(run: CodeRun) -> str:
    if not run.code:
        return run.problem()
    passed = sum(one.passed for one in run.checks)
    counts = f"{passed} of {len(run.checks)} checks passed"
    return counts if run.passed else f"{counts}: {run.problem()}"


def _chosen(request: CodeRequest, runs: list[CodeRun], stub: str) -> Iterator[CodeEvent | CodeResult]:
    """Yield the version that passes most, the earliest of equal ones."""
    best = max(runs, key=lambda run: (run.passed, run.counts(), bool(run.code), -run.candidate, -run.attempt))
    status = _status(request, best)
    if len(runs) > 1:
        text = f"version {best.attempt} of candidate {best.candidate}"
        yield CodeEvent(step="choose", text=text, candidate=best.candidate, attempt=best.attempt)
    code = best.code or fallback(stub, request.name)
    yield CodeResult(code=code, status=status, runs=tuple(runs), explanation=_explained(status, best))


def _status(request: CodeRequest, best: CodeRun) -> CodeStatus:
    """Return what was seen. For "examples", each of the user's own checks must be among those that passed."""
    if not best.passed:
        return "failed"
    passed = {one.check for one in best.checks if one.passed}
    if request.checks and set(request.checks) <= passed:
        return "examples"
    return "failed" if request.checks else "ran"


def _what_ran(best: CodeRun) -> str:
    """Say what was called and how that went; code that only loaded did not run."""
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
