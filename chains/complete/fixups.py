r"""Completions for a gap in Python code that nothing a weak model wrote fits into.

`handlers` completes a `try:` block that has no handler yet, and `fillers` tries the names of the code before
the gap. The chain uses them only if no continuation of the model parses.

    >>> fillers("total = 0\nfor price in prices:\n    total += ", "\nprint(total)\n")[:3]
    ['total', ' total', '(total)']
"""

import re
from collections.abc import Callable

from chains.complete.python import indentation, next_indent, parses

_NAMES = re.compile(r"\b[A-Za-z_]\w*\b")
_KEYWORDS = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally "
    "for from global if import in is lambda nonlocal not or pass raise return try while with yield".split()
)


def handlers(prefix: str, write: Callable[[str], str]) -> list[str]:
    """Return completions that begin with `except`, if `prefix` ends inside a `try:` block, else [].

    Args:
        prefix: The code before the gap.
        write: Called with the beginning of the completion; returns the model's continuation of it.
    """
    margin = open_try(prefix) if prefix.endswith("\n") else None
    if margin is None:
        return []
    lead = f"{margin}except"
    return [lead + write(lead), f"{lead} Exception:\n{margin}    raise"]


def open_try(prefix: str) -> str | None:
    """Return the indentation of the innermost `try:` that `prefix` ends in, or None if it ends in none."""
    least: int | None = None
    for line in reversed(prefix.split("\n")):
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        depth = indentation(line)
        if least is not None and depth < least and re.match(r"try\s*:", text):
            return line[: len(line) - len(text)]
        least = depth if least is None else min(least, depth)
    return None


def fillers(prefix: str, suffix: str) -> list[str]:
    """Return up to 24 completions that parse: a name of the code before, in some syntactic forms."""
    if not suffix:
        return []
    indent = next_indent(prefix)
    forms = (f"{indent}return {{}}", "{}", " {}", "{}:", " {}:", "({})", "({}):", "{})", " = {}")
    tries = [form.format(name) for name in [*names_before(prefix), "None"] for form in forms]
    return [one for one in tries if parses(prefix + one + suffix)][:24]


def names_before(prefix: str, most: int = 12) -> list[str]:
    """Return the names used in `prefix`, the latest first, because a gap most often repeats one of them."""
    found = [name for name in reversed(_NAMES.findall(prefix[-4000:])) if name not in _KEYWORDS]
    return list(dict.fromkeys(found))[:most]
