"""Which file of this machine a message names: a name in the user's own words, of a file that is there.

That the file exists tells "what is in README.md" from "what is a README.md for", which no wording does. Looks
at names alone; refuses to read (`tools.read_file` does, below the folders that were allowed).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_HEAD = 500
"""Characters of a message that may name a file: a pasted page names many, and asks for none."""
_NAME = re.compile(r"[^\s'\"`<>(),;]*[\w/][./][^\s'\"`<>(),;]*")


def named_file(message: str, folders: Sequence[Path] = ()) -> str | None:
    """The first name in the message, as it stands there, of a regular file; None where there is none.

    Relative names are looked up in the first of `folders`, as the tool that reads does, else in the current
    folder.
    """
    base = folders[0].expanduser() if folders else Path()
    for found in _NAME.finditer(message[:_HEAD]):
        name = found[0].rstrip(".?!:")
        try:
            if name and (base / Path(name).expanduser()).is_file():
                return name
        except (OSError, RuntimeError, ValueError):  # too long, ~nobody, a NUL
            continue
    return None
