"""Showing and changing `config.toml`: one value at a time, comments kept, written whole or not at all.

Knows the file's form and the settings' names and types; refuses to know what they are used for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.folders import private_folder
from agent.settings import Settings, check_values, nearest_setting, read_config


def show_values(settings: Settings) -> list[dict[str, Any]]:
    """Every setting with its value now, its default and what it is for."""
    rows = []
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        rows.append(
            {"setting": name, "value": _shown(value), "default": _shown(default), "what": field.description}
        )
    return rows


def known_setting(name: str) -> str:
    """The name itself; raises ConfigError, with the nearest right one, where no setting is called so."""
    if name not in Settings.model_fields:
        raise ConfigError(f"expected a known setting, found {name!r}{nearest_setting(name)}")
    return name


def set_value(path: Path, name: str, value: str) -> None:
    """Put one setting into the file, or take it out where `value` is empty; raises ConfigError."""
    known_setting(name)
    read_config(path)  # a file that cannot be read is not written over
    private_folder(path.parent)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = [line for line in old.splitlines() if not re.match(rf"\s*{name}\s*=", line)]
    tables = next((i for i, line in enumerate(kept) if line.lstrip().startswith("[")), len(kept))
    if value:
        kept.insert(tables, f"{name} = {_toml(value)}")
    _replace(path, "\n".join(kept) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write beside the file, check that it can be read as settings, then take its place."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o600)
        check_values(read_config(partial))
    except ConfigError as error:
        raise ConfigError(f"{error}; nothing was changed") from error
    else:
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _toml(value: str) -> str:
    """The value as TOML: numbers, booleans, arrays and quoted strings as they are, other text as a string."""
    if re.fullmatch(r"true|false|[+-]?\d+(\.\d+)?([eE][+-]?\d+)?|\[.*\]|\".*\"", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
