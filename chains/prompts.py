"""Prompt files: text that lies beside the chain which uses it.

Knows how package data is read; knows no prompt by name and fills in no model's template.
"""

from functools import lru_cache
from importlib.resources import files
from string import Template


@lru_cache(maxsize=64)
def load_prompt(package: str, name: str) -> Template:
    """Return `prompts/<name>.txt` of `package` as a `string.Template` ($question, $documents, …)."""
    text = files(package).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    return Template(text.rstrip("\n"))
