"""Asks the model: for a signature, for code, for a repair. Knows the prompts; runs nothing."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.code.imports import with_missing_imports
from chains.code.request import Request, parses_as_stub, stated_properties
from chains.code.result import CodeRun
from chains.code.signature import fit_signature
from chains.code.source import (
    code_of,
    fallback,
    function_in,
    under_name,
    under_stub,
    without_demonstrations,
)
from chains.prompts import load_prompt

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
    inner: Any = model
    while (bound := getattr(inner, "bound", None)) is not None:
        inner = bound
    if "seed" in getattr(type(inner), "model_fields", {}):
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
