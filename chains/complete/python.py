"""Fitting a model's raw continuation into a gap in Python code.

A gap is the place between a prefix and a suffix. A completion fits if prefix + completion + suffix parses and
the completion is more than `pass` or a comment.

    >>> fitting("area = width * (height", " + margin; then print it", ")", single_line=True)
    ' + margin'
"""

import re
import warnings
from collections.abc import Iterator

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def parses(text: str) -> bool:
    """Return True if `text` compiles as a module. `ast.parse` would accept `return` outside a function."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<completion>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def says_something(completion: str) -> bool:
    """Return True if a completion is more than `pass`, punctuation and comments."""
    lines = [line.strip() for line in completion.splitlines() if any(char.isalnum() for char in line)]
    return any(not line.startswith("#") and line != "pass" for line in lines)


def indentation(line: str) -> int:
    """Return the indentation of `line` in columns; a tab goes to the next multiple of 8."""
    return len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip())


def next_indent(prefix: str) -> str:
    """Return the indentation of the next line in the block, or "" if `prefix` ends within a line."""
    if not prefix.endswith("\n"):
        return ""
    last = next((line for line in reversed(prefix.split("\n")) if line.strip()), "")
    indent = last[: len(last) - len(last.lstrip())]
    return indent + "    " if last.split("#")[0].rstrip().endswith(":") else indent


def block_end(prefix: str, completion: str) -> str:
    """Return `completion` up to the end of the block in which `prefix` ends.

    After a line that ends with a colon this is the new, deeper block. The first line is kept whole, and later
    lines as long as they are indented as far as the block.
    """
    last = prefix.rsplit("\n", 1)[-1]
    lines = completion.split("\n")
    if last.strip():
        opens = (last + lines[0]).split("#")[0].rstrip().endswith(":")
        least = indentation(last) + (1 if opens else 0)
        kept, rest = [lines[0]], lines[1:]
        if not opens:
            # In the middle of a line the statement ends with the line, unless a bracket is open.
            while rest and not _closed("\n".join([last + kept[0], *kept[1:]])):
                kept.append(rest.pop(0))
            return "\n".join(kept).rstrip()
    else:
        first = next((line for line in lines if line.strip()), "")
        least = max(1, indentation(last + first)) if _in_block(prefix) else 0
        kept, rest = [], [last + lines[0], *lines[1:]]
    for line in rest:
        if line.strip() and indentation(line) < least:
            break
        kept.append(line)
    text = "\n".join(kept)
    return text[len(last) :].rstrip() if not last.strip() else text.rstrip()


def _closed(line: str) -> bool:
    return all(line.count(a) <= line.count(b) for a, b in ("()", "[]", "{}")) and not line.rstrip().endswith(
        "\\"
    )


def _in_block(prefix: str) -> bool:
    for line in reversed(prefix.split("\n")):
        if line.strip():
            return indentation(line) > 0 or line.rstrip().endswith(":")
    return False


def cuts(completion: str, most: int = 60) -> Iterator[str]:
    """Yield shorter versions of a completion, longest first: fewer lines, then fewer words of the first."""
    lines = completion.split("\n")
    for count in range(len(lines), 1, -1):
        yield "\n".join(lines[:count])
    marks = [match.end() for match in _WORDS.finditer(lines[0])]
    for mark in reversed(marks[:most]):
        yield lines[0][:mark]


def closings(completion: str) -> Iterator[str]:
    """Yield the completion with its open brackets and quotes closed, in a few ways."""
    closing = ""
    quote = ""
    for char in completion:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            closing = {"(": ")", "[": "]", "{": "}"}[char] + closing
        elif closing and char == closing[0]:
            closing = closing[1:]
    for tail in dict.fromkeys((quote + closing, quote, closing, ":", quote + closing + ":")):
        if tail:
            yield completion + tail


def fitting(prefix: str, raw: str, suffix: str, *, single_line: bool) -> str | None:
    """Return the longest cut of a raw continuation that fits the gap, with its brackets closed, or None."""
    text = raw.split("\n", 1)[0] if single_line else block_end(prefix, raw)
    for cut in cuts(text):
        for version in (cut.rstrip(), *closings(cut.rstrip())):
            if says_something(version) and parses(prefix + version + suffix):
                return version
    return None
