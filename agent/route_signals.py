"""Plain facts about a message's form that an embedding does not see: code, sums, paths, and words that ask.

Each signal is a yes or no that holds whatever the topic is, in the six languages of the described examples.
Knows patterns; refuses to know routes and weights (`agent.router` learns those from the examples).
"""

from __future__ import annotations

import ast
import re
from importlib.resources import files


def _read_patterns() -> dict[str, re.Pattern[str]]:
    lines = files("agent").joinpath("route_patterns.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return {name: re.compile(pattern, re.IGNORECASE | re.DOTALL) for name, pattern in rows}


_COMPILED = _read_patterns()
SIGNALS: tuple[str, ...] = (
    *_COMPILED,
    "expression",
    "two_numbers",
    "python",
    "long",
    "short",
    "imperative_code",
)

_EXPRESSION = re.compile(
    r"^[\s\d.,()+\-*/x\u00d7\u00f7^%=?!]*$|\d\s*(?:\*\*?|[+/\u00d7\u00f7^]|(?<=\s)[-x](?=\s))\s*\(?-?\d"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def signals(message: str) -> dict[str, bool]:
    """Which signals the message gives; takes well under a millisecond for a message of usual length."""
    head = message[:4000]
    found = {name: pattern.search(head) is not None for name, pattern in _COMPILED.items()}
    numbers = _NUMBER.findall(head)
    found["expression"] = bool(numbers) and _EXPRESSION.search(head) is not None
    found["two_numbers"] = len(numbers) >= 2
    found["python"] = python_in(head) is not None
    found["long"] = len(head) > 300
    found["short"] = len(head) < 40
    found["imperative_code"] = found["write_words"] and found["code_words"] and not found["no_code"]
    return found


def python_in(message: str) -> str | None:
    """The longest run of lines at the end of the message, or in a fence, that is a Python program; else None.

    A program here does something: a bare name or number in prose is none.
    """
    for block in re.findall(
        r"```(?:python|py)?\s*\n?(.*?)```|`([^`\n]+)`", message, re.DOTALL | re.IGNORECASE
    ):
        text = (block[0] or block[1]).strip()
        if _is_program(text):
            return str(text)
    lines = message.split("\n")
    for start in range(len(lines)):
        text = "\n".join(lines[start:]).strip("\n")
        if _is_program(text):
            return text
    tail = re.search(r"[:\uff1a]\s*(\S.*)$", lines[-1])
    return tail[1] if tail is not None and _is_program(tail[1]) else None


def _is_program(text: str) -> bool:
    if not re.search(r"[=(\[]", text):
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if isinstance(tree.body[0], ast.AnnAssign):  # "execute: f(x)" is prose with a colon
        return False
    acts = (ast.Call, ast.Assign, ast.AugAssign, ast.For, ast.While, ast.FunctionDef, ast.Subscript)
    return any(isinstance(node, acts) for node in ast.walk(tree))
