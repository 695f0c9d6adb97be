"""Code out of a model's reply: found, cut to what parses, and put under the user's own signature.

Knows Python's syntax only. What it returns always parses.
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
    """The Python in a reply, "" if none parses.

    Fenced blocks first, together if they parse together; else from the first line that looks like code. A
    block that was cut off (the token budget) loses its last lines until it parses.
    """
    blocks = [textwrap.dedent(block).strip("\n") for block in _FENCE.findall(reply)]
    start = _FIRST_LINE.search(reply)
    for text in ["\n\n".join(blocks), *blocks, reply[start.start() :] if start else ""]:
        if code := _longest_that_parses(text):
            return _without_doubles(code)
    return ""


def _without_doubles(code: str) -> str:
    """The code without functions that it holds once more, word for word, further down."""
    nodes = ast.parse(code).body
    told = [ast.dump(one) if isinstance(one, Function) else "" for one in nodes]
    lines = code.splitlines(keepends=True)
    for place in reversed(range(len(nodes))):
        if told[place] and told[place] in told[place + 1 :]:
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
    """Whether it is Python (text with NUL characters and too deep nesting are not)."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _does_something(code: str) -> bool:
    """More than names and text: a sentence of one word parses too."""
    return any(
        not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call) for one in ast.parse(code).body
    )


def function_in(code: str, name: str | None) -> Function | None:
    """The function of that name, or with no name the last one."""
    found = [one for one in ast.parse(code).body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = [one for one in found if name is None or one.name == name]
    return named[-1] if named else None


def needs_arguments(function: Function) -> bool:
    """Whether it cannot be called as `f()`."""
    given = function.args
    positional = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return positional > 0 or any(one is None for one in given.kw_defaults)


_MADE_UP = {"bool": "True", "bytes": "b'abc'", "dict": "{}", "float": "1.5", "int": "3", "list": "[3, 1, 2]"}
_MADE_UP |= {"str": "'abc'", "tuple": "(3, 1, 2)", "set": "{3, 1, 2}", "Sequence": "[3, 1, 2]"}


def made_up_arguments(function: Function) -> list[str]:
    """A simple value for each parameter without a default, by its annotation (3 where it has none)."""
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
    """The model's function body under the user's signature and docstring; "" if there is no such function.

    A model that renames the parameters keeps its own names inside, assigned from the user's. A reply that is
    a bare body (no def) is taken as one.
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
        and not _is_demonstration(one)
    ]
    renamed = _renames(function_in(completed(stub), name), written)
    text = "\n".join([*others, *([""] if others else []), head.rstrip(), renamed + body]) + "\n"
    return text if parses(text) else ""


def _split_stub(stub: str, name: str) -> tuple[str, Function]:
    """The stub up to where the body begins, docstring included."""
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
    """The lines of a function's body without its docstring, indented by four."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not body:
        return "    pass"
    lines = code.splitlines()[body[0].lineno - 1 : function.end_lineno]
    first = " " * body[0].col_offset + lines[0][body[0].col_offset :]
    return textwrap.indent(textwrap.dedent("\n".join([first, *lines[1:]])), "    ")


def _renames(ours: Function | None, theirs: Function) -> str:
    if ours is None:
        return ""
    mine, his = ([one.arg for one in (*given.posonlyargs, *given.args)] for given in (ours.args, theirs.args))
    pairs = [(new, old) for new, old in zip(his, mine, strict=False) if new != old]
    return "".join(f"    {new} = {old}\n" for new, old in pairs)


def under_name(code: str, written: str, wanted: str) -> str:
    """The code with its function called as the user calls it: renamed, or named twice where that is taken."""
    bound = {one.arg for one in ast.walk(ast.parse(code)) if isinstance(one, ast.arg)}
    bound |= {
        one.id
        for one in ast.walk(ast.parse(code))
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    if wanted in bound:
        return f"{code}\n\n{wanted} = {written}\n"
    return re.sub(rf"\b{re.escape(written)}\b", wanted, code)


def without_demonstrations(code: str) -> str:
    """The code without examples of its use, which may fail where the function does not."""
    tree = ast.parse(code).body
    lines = code.splitlines(keepends=True)
    for place in reversed(range(len(tree))):
        if _is_demonstration(tree[place]):
            above = tree[place - 1].end_lineno or 0 if place else 0
            first = tree[place].lineno - 1
            while first > above and lines[first - 1].lstrip().startswith("#"):  # "# Example:"
                first -= 1
            del lines[first : tree[place].end_lineno]
    text = "".join(lines).strip("\n") + "\n"
    return text if parses(text) and ast.parse(text).body else code


def _is_demonstration(node: ast.stmt) -> bool:
    """Calls at the top level and `if __name__ == "__main__"`: examples of use, no part of a function."""
    return isinstance(node, ast.If) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    )


def fallback(stub: str, name: str | None) -> str:
    """Code that parses and refuses, for when no reply held any."""
    text = completed(stub) if stub else f"def {name or 'solution'}(*args):\n    raise NotImplementedError"
    return text + "\n"
