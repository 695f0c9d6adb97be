"""`agent models`: which models there are; fetch, remove and choose them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.cli import console
from agent.cli.models_progress import download_bar
from agent.cli.options import (
    JSON,
    Args,
    action,
    completed_from,
    flag,
    model_names,
    option,
    settings_from,
    verb,
    words,
)
from agent.errors import RequestError

if TYPE_CHECKING:
    from llms.models.registry import Registry


@verb(
    action("alias", "default", "list", "ps", "pull", "rm", "show", default="list"),
    words(
        "names",
        metavar="[NAME]...",
        shell_complete=completed_from(model_names),
        help="a model, also as owner/name@revision; alias: NAME MODEL",
    ),
    flag("--delete", help="alias: forget NAME"),
    option("--revision", metavar="REV", help="pull: branch, tag or commit"),
    JSON,
)
def models(args: Args) -> int:
    """Carry out one action on the models."""
    from llms.models.registry import Registry

    actions = {
        "alias": _alias,
        "default": _default,
        "list": _list,
        "ps": _ps,
        "pull": _pull,
        "rm": _remove,
        "show": _show,
    }
    folders = settings_from(args).folders
    return actions[args.action](Registry(folders.cache, folders.config), args)


def _list(registry: Registry, args: Args) -> int:
    rows = registry.rows(measure=True)
    if args.json:
        console.write_json({"models": [{**asdict(row), "present": row.present} for row in rows]})
        return 0
    shown = [
        {
            "name": row.name,
            "licence": row.licence,
            "parameters": _count(row.parameters),
            "quantization": row.quantization,
            "download": _size(row.download) if row.download else "",
            "memory": _size(row.memory) if row.memory else "",
            "tokens/s": f"{row.tokens_per_second:.0f}" if row.tokens_per_second else "",
            "fits": row.fits,
            "on disk": _size(row.size),
            "context": row.context,
            "default": "yes" if row.default else "",
            "aliases": ", ".join(row.aliases),
        }
        for row in rows
    ]
    console.table(shown, list(shown[0]))
    return 0


def _show(registry: Registry, args: Args) -> int:
    for name in _named(args):
        details = registry.show(name)
        if args.json:
            console.write_json(asdict(details))
            continue
        row, here = details.row, details.folder is not None
        facts = {
            "name": row.name,
            "title": row.title,
            "licence": row.licence,
            "prompts": details.source.entry.prompts if details.source.entry else "",
            "fills gaps": "yes" if details.source.entry and details.source.entry.fills_gaps else "",
            "aliases": ", ".join(row.aliases),
            "source": f"{details.source.kind} {details.source.location}",
            "folder": details.folder or f"not on this machine; `agent models pull {row.name}` brings it",
            "on disk": _size(row.size) if here else "",
            "parameters": _count(row.parameters),
            "context": f"{row.context:,} tokens" if row.context else "",
            "fits": row.fits,
            **_shown(details.facts),
            "4-bit checkpoints": ", ".join(map(str, details.quantized)),
            "problem": console.as_typed(details.problem),
        }
        for key, value in facts.items():
            if value not in ("", None):
                console.line(f"{key.replace('_', ' ')}: {value}")
    return 0


def _pull(registry: Registry, args: Args) -> int:
    for name in _named(args):
        with download_bar() as bar:
            folder = registry.pull(name, revision=args.revision, notify=console.notify, progress=bar)
        if args.json:
            console.write_json({"name": name, "folder": folder})
        else:
            console.line(f"{name} is at {folder}")
    return 0


def _remove(registry: Registry, args: Args) -> int:
    for name in _named(args):
        freed = registry.remove(name)
        if args.json:
            console.write_json({"name": name, "freed": freed})
        else:
            console.line(f"removed {name}, {_size(freed)} freed")
    return 0


def _default(registry: Registry, args: Args) -> int:
    if args.names:
        registry.set_default(args.names[0])
    if args.json:
        console.write_json({"default": registry.default})
    else:
        console.line(registry.default)
    return 0


def _alias(registry: Registry, args: Args) -> int:
    if args.delete:
        for name in _named(args):
            registry.set_alias(name, None)
    elif len(args.names) == 2:
        registry.set_alias(*args.names)
    elif args.names:
        raise RequestError(
            f"expected a new name and the model that it stands for, found {args.names!r}; `--delete NAME` "
            "forgets one"
        )
    if args.json:
        console.write_json({"aliases": registry.aliases})
        return 0
    for name, target in registry.aliases.items():
        console.line(f"{name} = {target}")
    return 0


def _ps(registry: Registry, args: Args) -> int:
    rows = [{**asdict(running), "rss": running.rss} for running in registry.loaded()]
    if args.json:
        console.write_json({"loaded": rows})
    elif not rows:
        console.note("no model is loaded")
    else:
        shown = [{**row, "memory": _size(row["rss"])} for row in rows]
        console.table(shown, ["pid", "name", "device", "quantization", "window", "memory"])
    return 0


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    from llms.models.checkpoint import size_text

    words = {True: "yes", False: "no"}
    shown: dict[str, Any] = {
        key: words[value] if isinstance(value, bool) else value for key, value in facts.items()
    }
    if "context" in facts:
        sizes = {key: size_text(shown.pop(key)) for key in ("bytes", "needs_bytes")}
        token = size_text(1000 * shown.pop("kv_bytes_a_token"))
        shown |= {"parameters": _count(facts["parameters"]), "context": f"{facts['context']:,} tokens"}
        shown["weights"] = f"{sizes['bytes']} as stored, {sizes['needs_bytes']} loaded"
        shown["kv_cache"] = f"{token} for 1,000 tokens"
    return shown


def _count(parameters: int | None) -> str:
    if not parameters:
        return ""
    return f"{parameters / 1e9:.2f}B" if parameters >= 10**9 else f"{parameters / 1e6:.1f}M"


def _named(args: Args) -> list[str]:
    if not args.names:
        raise RequestError("expected the name of a model, found none; `agent models list` names them")
    return list(args.names)


def _size(count: int) -> str:
    from llms.models.checkpoint import size_text

    return size_text(count) if count else "no"
