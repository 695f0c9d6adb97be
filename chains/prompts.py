"""Prompt files: text that lies beside the chain which uses it.

Knows how package data is read and how material is fenced off; knows no prompt by name and fills in no model's
template.
"""

import re
from functools import lru_cache
from importlib.resources import files
from string import Template


@lru_cache(maxsize=64)
def load_prompt(package: str, name: str) -> Template:
    """Return `prompts/<name>.txt` of `package` as a `string.Template` ($question, $documents, …)."""
    text = files(package).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    return Template(text.rstrip("\n"))


def fence(*texts: str) -> str:
    """Return a line of dashes longer than any in `texts`: what is fenced with it cannot end its own fence."""
    longest = max((len(run) for text in texts for run in re.findall(r"-{5,}", text)), default=4)
    return "-" * (longest + 1)
