"""Plain facts about the form of a message that an embedding does not see: code, sums, paths, words that ask.

A signal is true or false whatever the topic is, in the six languages of the described examples.

    >>> found = signals("What is 15 % of 300?")
    >>> sorted(name for name in found if found[name])
    ['percent', 'question', 'short', 'two_numbers']
"""

from __future__ import annotations

import ast
import re
from importlib.resources import files


def _read_patterns() -> dict[str, re.Pattern[str]]:
    lines = files("agent.planner").joinpath("route_patterns.txt").read_text(encoding="utf-8").splitlines()
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
    """Return the signals of a message; takes well under a millisecond for a message of usual length."""
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
    """Return the Python program in a fence or at the end of the message, None if there is none.

    A program does something: a bare name or number in prose does not count.

    >>> python_in("Please run this: print(1)")
    'print(1)'
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
    if isinstance(tree.body[0], ast.AnnAssign):  # "execute: f(x)" is prose with a colon.
        return False
    acts = (ast.Call, ast.Assign, ast.AugAssign, ast.For, ast.While, ast.FunctionDef, ast.Subscript)
    return any(isinstance(node, acts) for node in ast.walk(tree))
