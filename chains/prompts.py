"""Prompts as text files, kept in a `prompts` folder next to the chain that uses them.

A prompt puts the user's text between two fences, so that the text stays apart from the instructions.

    >>> load_prompt("chains.complete", "text").template[:23]
    'Continue the text below'
    >>> fence("a text", "one with ------- in it")
    '--------'
"""

import re
from functools import lru_cache
from importlib.resources import files
from string import Template


@lru_cache(maxsize=64)
def load_prompt(package: str, name: str) -> Template:
    """Return `prompts/<name>.txt` of `package` as a `string.Template` with fields such as $question."""
    text = files(package).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    return Template(text.rstrip("\n"))


def fence(*texts: str) -> str:
    """Return a line of dashes longer than any in `texts`, so that a text cannot end its own fence."""
    longest = max((len(run) for text in texts for run in re.findall(r"-{5,}", text)), default=4)
    return "-" * (longest + 1)
