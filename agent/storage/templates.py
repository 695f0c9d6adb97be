"""Prompt templates of the user: text files with gaps `$name` or `${name}`, and `$input` for the question.

A literal dollar sign is written `$$`.

    >>> fill("Write a $how note. $input", question="Say that I am late.", values={"how": "short"})
    'Write a short note. Say that I am late.'
"""

from __future__ import annotations

import re
import string
from pathlib import Path

from agent.errors import TemplateError
from agent.folders import private_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIX = ".txt"


def list_templates(folder: Path) -> list[str]:
    """Return the names of the templates, sorted."""
    return sorted(path.stem for path in folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []


def template_path(folder: Path, name: str) -> Path:
    """Return the file of the template; raises TemplateError if the name cannot be one."""
    if not _NAME.fullmatch(name):
        raise TemplateError(
            f"expected a template's name of letters, digits, - and _, found {name!r}; choose another"
        )
    return folder / f"{name}{_SUFFIX}"


def read_template(folder: Path, name: str) -> str:
    """Return the template's text; raises TemplateError."""
    try:
        return template_path(folder, name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = ", ".join(list_templates(folder))
        expected = f"a template among {known}" if known else "a template, but there are none yet"
        raise TemplateError(
            f"expected {expected}, found {name!r}; make it: agent templates save {name} 'TEXT'"
        ) from None


def save_template(folder: Path, name: str, text: str) -> Path:
    """Keep a template and return its file; raises TemplateError if its gaps cannot be read."""
    path = template_path(folder, name)
    gaps_of(text)
    private_folder(folder)
    path.write_text(text, encoding="utf-8")
    return path


def gaps_of(text: str) -> list[str]:
    """Return the names of the gaps; raises TemplateError if a dollar sign does not begin one."""
    template = string.Template(text)
    if not template.is_valid():
        raise TemplateError(
            f"expected gaps such as $input or $$ for a dollar sign, found {text!r}; mend the template"
        )
    return template.get_identifiers()


def fill(text: str, *, question: str, values: dict[str, str]) -> str:
    """Return the template with its gaps filled, and the question at the end if no gap takes it."""
    gaps = gaps_of(text)
    missing = [gap for gap in gaps if gap != "input" and gap not in values]
    if missing:
        raise TemplateError(f"expected a value for ${missing[0]}, found none; pass -p {missing[0]} VALUE")
    filled = string.Template(text).substitute({**values, "input": question})
    return filled if "input" in gaps or not question else f"{filled.rstrip()}\n\n{question}"
