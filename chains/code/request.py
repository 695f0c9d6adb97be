"""Requests for code: the signature, docstring, doctests, examples and properties that a request states.

No model is called. Python is recognized by its syntax, and an example in prose by a few phrases; the model
gets the whole request, so what is not recognized is not lost.

    >>> request = read_request("Write a function that doubles a number, so that double(2) returns 4.")
    >>> request.name, [check.source for check in request.checks]
    ('double', ['double(2) == 4'])
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chains.code.result import Check
from chains.errors import InputError, excerpt, require_text

_DEF = re.compile(r"^(?:async )?def \w+\s*\(", re.MULTILINE)
_SAYS = r"(?:==>|==|=>|=|->|#?\s*(?:➞|→)|returns|gives|is)"
_EXAMPLE = re.compile(rf"(?P<call>\b[A-Za-z_]\w*\(.*?\))\s*{_SAYS}\s*(?P<value>\S.*?)\s*$")
_WORDS = {"true": "True", "false": "False", "null": "None", "none": "None"}
_COUNT = r"(?P<count>\d[\d,_]*)"
_LIST_OF = re.compile(rf"\blist of (?:\w+ )*?{_COUNT} ", re.IGNORECASE)
_BETWEEN = re.compile(r"\bbetween (?P<low>-?\d[\d,_]*) and (?P<high>-?\d[\d,_]*)", re.IGNORECASE)
_ALWAYS_TRUE = ast.Constant | ast.Dict | ast.GeneratorExp | ast.JoinedStr | ast.Lambda | ast.List | ast.Tuple
_KEYS = ("request", "examples", "signature")
_WANTS_FUNCTION = re.compile(r"\b(function|def|method|returns?)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CodeRequest:
    """A request for code, and what of it can be checked.

    Attributes:
        text: The request as it was passed.
        stub: Code of the user's up to the signature and docstring of a function, or "".
        name: Name of the function, or None if it is unknown or no function is asked for.
        checks: The user's examples and doctests.
        wants_function: True if a function is asked for, False for a program.
    """

    text: str
    stub: str
    name: str | None
    checks: tuple[Check, ...]
    wants_function: bool


def read_request(given: str | Mapping[str, Any]) -> CodeRequest:
    """Return the request in a text, or in a mapping with "request" and perhaps "examples" and "signature".

    Raises:
        chains.errors.InputError: There is no text, a key is unknown, or an example or the signature is not
            Python.
    """
    if not isinstance(given, Mapping):
        given = {"request": given}
    if unknown := [key for key in given if key not in _KEYS]:
        # With "example" for "examples" the code would silently stay unchecked.
        raise InputError(f"expected the keys {', '.join(_KEYS)}, found {unknown[0]!r}: rename or remove it")
    text = require_text("a request for code", given.get("request"))
    stub = _stub(str(given.get("signature") or "") or text)
    if given.get("signature") and not stub:
        raise InputError(
            f"signature: expected Python like 'def f(x):', found {given['signature']!r}; write the whole line"
        )
    examples = _given_examples(given.get("examples") or ())
    # The docstring is read by itself, because its closing quotes would count as the output of a doctest.
    texts = (_docstrings(stub), _outside_stub(text, stub))
    found = [*examples, *(one for text in texts for one in (*_doctests(text), *_examples_in(text)))]
    name = _defined_name(stub) or _called_name(found)
    wants = bool(stub or name or _WANTS_FUNCTION.search(text))
    return CodeRequest(text=text, stub=stub, name=name, checks=_unique(found), wants_function=wants)


def _unique(checks: list[Check]) -> tuple[Check, ...]:
    seen: dict[tuple[str, str | None], Check] = {}
    for check in checks:
        seen.setdefault((check.source.strip(), check.want), check)
    return tuple(seen.values())


def _given_examples(examples: str | Sequence[str]) -> list[Check]:
    several = [examples] if isinstance(examples, str) else examples
    if not isinstance(several, Sequence) or not all(isinstance(one, str) for one in several):
        raise InputError(
            f"examples: expected a list of Python expressions, found {excerpt(examples)}: pass ['f(2) == 4']"
        )
    return [Check(kind="example", source=source) for one in several for source in _expressions(one)]


def _expressions(example: str) -> list[str]:
    """Return the expressions of an example: `f(2) == 4`, `assert f(2) == 4, "why"`, `f(2) -> 4`, or several.

    Expressions between commas are taken one by one; together they are a tuple, which is always true.
    """
    source = example.strip()
    try:
        claims = [one for node in ast.parse(source).body for one in _claims(node)]
    except (SyntaxError, ValueError) as error:
        claims, why = [], str(error)
    else:
        why = "it says nothing of what the code does"
    if claims and all(map(_can_be_false, claims)):
        return [ast.get_source_segment(source, one) or ast.unparse(one) for one in claims if one]
    if ";" not in source and len(in_prose := _examples_in(source)) == 1:
        return [in_prose[0].source]
    raise _no_example(example, why)


def _can_be_false(claim: ast.expr | None) -> bool:
    """Return True if `claim` names something and is not a list, lambda or the like, which is always true."""
    if claim is None or isinstance(claim, _ALWAYS_TRUE):
        return False
    return any(isinstance(one, ast.Name) for one in ast.walk(claim))


def _claims(node: ast.stmt) -> list[ast.expr | None]:
    """Return what a statement claims, or [None] if it claims nothing, such as an import."""
    if isinstance(node, ast.Assert):
        return [node.test]
    if not isinstance(node, ast.Expr):
        return [None]
    return [*node.value.elts] if isinstance(node.value, ast.Tuple) and node.value.elts else [node.value]


def _no_example(example: str, why: str) -> InputError:
    return InputError(
        f"example: expected a Python expression like 'f(2) == 4', found {excerpt(example)} ({why}); "
        "correct it"
    )


def _docstrings(stub: str) -> str:
    """Return the docstrings of the functions in `stub`."""
    tree = ast.parse(completed(stub) if stub else "")
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return "\n\n".join(ast.get_docstring(one) or "" for one in functions)


def _doctests(text: str) -> list[Check]:
    try:
        found = doctest.DocTestParser().get_examples(text)
    except ValueError:  # prose that only looks like a doctest
        return []
    return [
        Check(kind="example", source=one.source.strip())
        if not one.want and _is_comparison_with_literal(one.source)
        else Check(kind="doctest", source=one.source, want=one.want)
        for one in found
    ]


def _examples_in(text: str) -> list[Check]:
    """Return the examples in prose: `f(2) == 4`, `f(2) -> 4` or `f(2) returns 4`, with literals only."""
    checks = []
    for line in re.split(r"\n|;|`|(?<=[)\]\"'\d]) and (?=\w+\()|[.,](?=\s|$)(?![^(\[]*[)\]])", text):
        match = _EXAMPLE.search(line.strip().rstrip("."))
        if match and not line.lstrip().startswith((">>>", "def ")):
            value = _WORDS.get(match["value"].lower(), match["value"])
            source = f"{match['call']} == {value}"
            if _is_comparison_with_literal(source):
                checks.append(Check(kind="example", source=source))
    return checks


def _is_comparison_with_literal(source: str) -> bool:
    try:
        tree = ast.parse(source.strip(), mode="eval").body
        if not (isinstance(tree, ast.Compare) and isinstance(tree.left, ast.Call) and len(tree.ops) == 1):
            return False
        for one in (*tree.left.args, *(keyword.value for keyword in tree.left.keywords), *tree.comparators):
            ast.literal_eval(one)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(tree.left.func, ast.Name)


def _stub(text: str) -> str:
    """Return the code in the request, from its first import or def to the last line that still parses."""
    match = _DEF.search(text)
    if match is None:
        return ""
    start = _start_of_code(text, match.start())
    lines = text[start:].splitlines()
    for end in range(len(lines), 0, -1):
        stub = "\n".join(lines[:end]).rstrip()
        if parses_as_stub(stub):
            return stub
    return ""


def _start_of_code(text: str, at: int) -> int:
    """Return the offset of the imports and helpers right before the first def, which belong to the stub."""
    lines = text[:at].splitlines(keepends=True)
    kept = 0
    for line in reversed(lines):
        if line.strip() and not re.match(r"(import |from \w[\w.]* import |@|\s+\S|#)", line):
            break
        kept += len(line)
    return at - kept


def parses_as_stub(stub: str) -> bool:
    """Return True if `stub` parses and ends with a function, which need not have a body."""
    for ending in ("", "\n    pass", "\n        pass", ":\n    pass"):
        try:
            tree = ast.parse(stub + ending)
        except (SyntaxError, ValueError):
            continue
        return bool(tree.body) and isinstance(tree.body[-1], ast.FunctionDef | ast.AsyncFunctionDef)
    return False


def completed(stub: str, body: str = "raise NotImplementedError") -> str:
    """Return the stub as Python that parses; its last function gets `body` if it has none."""
    for ending in ("", f"\n    {body}", f"\n        {body}", f":\n    {body}"):
        try:
            ast.parse(stub + ending)
        except (SyntaxError, ValueError):
            continue
        return stub + ending
    return stub


def _outside_stub(text: str, stub: str) -> str:
    return text.replace(stub, "") if stub else text


def _defined_name(stub: str) -> str | None:
    if not stub:
        return None
    tree = ast.parse(completed(stub))
    names = [one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return names[-1] if names else None


def _called_name(checks: list[Check]) -> str | None:
    """Return the name of the function that the examples call and that is not built in."""
    import builtins

    for check in checks:
        try:
            tree = ast.parse(check.source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if not hasattr(builtins, node.func.id):
                    return node.func.id
    return None


def stated_properties(request: CodeRequest, name: str, needs_arguments: bool) -> list[Check]:
    """Return checks of the result of `name()` that the request states: "a list of 5", "between 1 and 6"."""
    if needs_arguments:
        return []
    checks = []
    if match := _LIST_OF.search(request.text):
        count = int(re.sub(r"[,_]", "", match["count"]))
        checks.append(f"len({name}()) == {count}")
    if match := _BETWEEN.search(request.text):
        low, high = (int(re.sub(r"[,_]", "", match[side])) for side in ("low", "high"))
        checks.append(f"{low} <= min(values := {name}()) and max(values) <= {high}")
    return [Check(kind="property", source=source) for source in checks]
