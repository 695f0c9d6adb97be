r"""Python in a model's reply: finding it, cutting it to what parses, putting it under the user's signature.

Every function here returns code that parses, or "".

    >>> code_of("Sure!\n\n```python\ndef double(x):\n    return x * 2\n```\nThis doubles x.")
    'def double(x):\n    return x * 2\n'
"""

from __future__ import annotations

import ast
import re
import textwrap

from chains.code.request import completed

_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
_FIRST_LINE = re.compile(r"^(import |from \w|def |class |async def |@|\w+ *=|print\(|for |if )", re.MULTILINE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_of(reply: str) -> str:
    """Return the Python in a reply, or "" if none parses.

    Fenced blocks are tried first, all together and then one by one; then the text from the first line that
    looks like code. A block that was cut off, for example by `max_tokens`, loses its last lines until it
    parses.
    """
    blocks = [textwrap.dedent(block).strip("\n") for block in _FENCE.findall(reply)]
    start = _FIRST_LINE.search(reply)
    for text in ["\n\n".join(blocks), *blocks, reply[start.start() :] if start else ""]:
        if code := _longest_that_parses(text):
            return _without_duplicates(code)
    return ""


def _without_duplicates(code: str) -> str:
    """Return the code without each function that is repeated word for word further down."""
    nodes = ast.parse(code).body
    dumps = [ast.dump(one) if isinstance(one, Function) else "" for one in nodes]
    lines = code.splitlines(keepends=True)
    for place in reversed(range(len(nodes))):
        if dumps[place] and dumps[place] in dumps[place + 1 :]:
            one = nodes[place]
            first = min([one.lineno, *(mark.lineno for mark in getattr(one, "decorator_list", []))])
            del lines[first - 1 : one.end_lineno]
    return "".join(lines).lstrip("\n")


def _longest_that_parses(text: str) -> str:
    lines = text.splitlines()
    for end in range(len(lines), 0, -1):
        code = "\n".join(lines[:end]).rstrip()
        if parses(code) and _does_something(code):
            return code + "\n"
    return ""


def parses(code: str) -> bool:
    """Return True if `code` is Python; text with NUL characters or with too deep nesting is not."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _does_something(code: str) -> bool:
    """Return False if `code` is only names and literals, because a sentence of one word parses too."""
    return any(
        not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call) for one in ast.parse(code).body
    )


def function_in(code: str, name: str | None) -> Function | None:
    """Return the function called `name`, or the last function if `name` is None."""
    found = [one for one in ast.parse(code).body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = [one for one in found if name is None or one.name == name]
    return named[-1] if named else None


def needs_arguments(function: Function) -> bool:
    """Return True if the function cannot be called as `f()`."""
    given = function.args
    positional = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return positional > 0 or any(one is None for one in given.kw_defaults)


_MADE_UP = {"bool": "True", "bytes": "b'abc'", "dict": "{}", "float": "1.5", "int": "3", "list": "[3, 1, 2]"}
_MADE_UP |= {"str": "'abc'", "tuple": "(3, 1, 2)", "set": "{3, 1, 2}", "Sequence": "[3, 1, 2]"}


def made_up_arguments(function: Function) -> list[str]:
    """Return a simple value for each parameter without a default: one of its annotated type, or 3."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    needed = positional[: len(positional) - len(given.defaults)]
    keywords = [one for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is None]
    return [*map(_made_up, needed), *(f"{one.arg}={_made_up(one)}" for one in keywords)]


def _made_up(parameter: ast.arg) -> str:
    annotation = parameter.annotation
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    name = annotation.id.lower() if isinstance(annotation, ast.Name) else ""
    return {key.lower(): value for key, value in _MADE_UP.items()}.get(name, "3")


def under_stub(code: str, stub: str, name: str) -> str:
    """Return the body of the function in `code` under the user's signature and docstring.

    If the model renamed the parameters, its names are assigned from the user's at the start of the body.
    Other definitions in `code` are kept before the function. Returns "" if `code` has no function.
    """
    written = function_in(code, name) or function_in(code, None)
    if written is None:
        return ""
    head, _ = _split_stub(stub, name)
    body = _body_of(code, written)
    whole = ast.parse(completed(stub))
    defined = {one.name for one in whole.body if isinstance(one, Function | ast.ClassDef)} | {written.name}
    others = [
        ast.get_source_segment(code, one) or ""
        for one in ast.parse(code).body
        if not (isinstance(one, Function | ast.ClassDef) and one.name in defined)
        and not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        and not is_demonstration(one)
    ]
    renamed = _renames(function_in(completed(stub), name), written)
    text = "\n".join([*others, *([""] if others else []), head.rstrip(), renamed + body]) + "\n"
    return text if parses(text) else ""


def _split_stub(stub: str, name: str) -> tuple[str, Function]:
    """Return the stub up to the first line of its body, docstring included, and its function."""
    full = completed(stub, "pass")
    function = function_in(full, name)
    assert function is not None
    last = function.body[0]
    if ast.get_docstring(function, clean=False) is None:
        end = last.lineno - 1
    else:
        end = last.end_lineno or last.lineno
    return "\n".join(full.splitlines()[:end]), function


def _body_of(code: str, function: Function) -> str:
    """Return the lines of a function's body without its docstring, indented by four."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not body:
        return "    pass"
    lines = code.splitlines()[body[0].lineno - 1 : function.end_lineno]
    first = " " * body[0].col_offset + lines[0][body[0].col_offset :]
    return textwrap.indent(textwrap.dedent("\n".join([first, *lines[1:]])), "    ")


def _renames(ours: Function | None, theirs: Function) -> str:
    if ours is None:
        return ""
    own, new = ([one.arg for one in (*given.posonlyargs, *given.args)] for given in (ours.args, theirs.args))
    pairs = [(theirs_name, name) for theirs_name, name in zip(new, own, strict=False) if theirs_name != name]
    return "".join(f"    {theirs_name} = {name}\n" for theirs_name, name in pairs)


def is_demonstration(node: ast.stmt) -> bool:
    """Return True for an example of use: a call at the top level, or `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    )


def fallback(stub: str, name: str | None) -> str:
    """Return code that raises NotImplementedError, for when no reply contains any code."""
    text = completed(stub) if stub else f"def {name or 'solution'}(*args):\n    raise NotImplementedError"
    return text + "\n"
