"""What a completion of Python code must satisfy, and how a raw continuation is cut to it.

Knows Python's grammar through `compile`, indentation and lines; knows no model. A gap is the place between a
prefix and a suffix; a completion fits when prefix + completion + suffix parses and the completion says
something.
"""

import re
import warnings
from collections.abc import Iterator

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_NAMES = re.compile(r"\b[A-Za-z_]\w*\b")
_KEYWORDS = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally "
    "for from global if import in is lambda nonlocal not or pass raise return try while with yield".split()
)


def parses(text: str) -> bool:
    """Tell whether `text` compiles as a module; `ast.parse` lets a `return` outside a function pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<completion>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def says_something(completion: str) -> bool:
    """Tell whether a completion is more than nothing: not empty, not only `pass`, marks or a comment."""
    lines = [line.strip() for line in completion.splitlines() if any(char.isalnum() for char in line)]
    return any(not line.startswith("#") and line != "pass" for line in lines)


def indentation(line: str) -> int:
    """Return the columns of white space before the text of `line`, tabs to the next multiple of 8."""
    return len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip())


def next_indent(prefix: str) -> str:
    """Return the white space that the block's next line begins with, "" where `prefix` ends in a line."""
    if not prefix.endswith("\n"):
        return ""
    last = next((line for line in reversed(prefix.split("\n")) if line.strip()), "")
    held = last[: len(last) - len(last.lstrip())]
    return held + "    " if last.split("#")[0].rstrip().endswith(":") else held


def open_try(prefix: str) -> str | None:
    """Return the white space before the innermost `try:` that `prefix` is in, None where it is in none."""
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


def block_end(prefix: str, completion: str) -> str:
    """Cut `completion` where the block ends that `prefix` is in.

    The block is that of the line the gap stands on; after a line that ends with a colon it is the new, deeper
    one. The first line is kept whole, later ones as long as they are indented at least as far.
    """
    last = prefix.rsplit("\n", 1)[-1]
    lines = completion.split("\n")
    if last.strip():
        opens = (last + lines[0]).split("#")[0].rstrip().endswith(":")
        least = indentation(last) + (1 if opens else 0)
        kept, rest = [lines[0]], lines[1:]
        if not opens:
            # In the middle of a line the statement ends with the line, unless brackets go on.
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
    """Yield shorter versions of a completion, longest first: by lines, then by words of its first line."""
    lines = completion.split("\n")
    for count in range(len(lines), 1, -1):
        yield "\n".join(lines[:count])
    marks = [match.end() for match in _WORDS.finditer(lines[0])]
    for mark in reversed(marks[:most]):
        yield lines[0][:mark]


def closings(completion: str) -> Iterator[str]:
    """Yield the completion with the brackets and quotes that it leaves open closed."""
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


def names_before(prefix: str, most: int = 12) -> list[str]:
    """Return the names used in `prefix`, the latest first: what a gap is most often filled with."""
    found = [name for name in reversed(_NAMES.findall(prefix[-4000:])) if name not in _KEYWORDS]
    return list(dict.fromkeys(found))[:most]


def fitting(prefix: str, raw: str, suffix: str, *, single_line: bool) -> str | None:
    """Return the longest cut of a raw continuation that fits the gap, closed where that helps, or None."""
    text = raw.split("\n", 1)[0] if single_line else block_end(prefix, raw)
    for cut in cuts(text):
        for version in (cut.rstrip(), *closings(cut.rstrip())):
            if says_something(version) and parses(prefix + version + suffix):
                return version
    return None
