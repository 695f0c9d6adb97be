"""Options that several verbs share, and the settings that follow from them.

Knows how an option is spelled and checked; refuses to know what it does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.settings import Settings

SETTINGS = (
    "home", "model", "quantization", "adapter", "merge_adapter", "device", "require_gpu", "temperature",
    "top_p", "max_tokens", "seed", "window", "system", "store_dir", "chroma", "k", "approve", "planner",
    "files", "embedding_precision",
)  # fmt: skip


def number(low: float, high: float, *, whole: bool = False) -> Callable[[str], float]:
    """An argparse type: a number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise argparse.ArgumentTypeError(f"expected {kind} from {low:g} to {high:g}, found {text!r}")
        return value

    return parse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, how it is loaded, how it samples."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="NAME", help="model name, Hub id, folder or GGUF file")
    group.add_argument("-s", "--system", metavar="TEXT", help="system prompt")
    group.add_argument(
        "-o",
        dest="model_options",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="any other model option, such as -o top_p 0.9",
    )
    group.add_argument("--temperature", type=number(0, 5), metavar="T", help="0 is greedy")
    group.add_argument("--max-tokens", type=number(1, 32768, whole=True), metavar="N", help="longest answer")
    group.add_argument(
        "--seed", type=number(0, 2**63 - 1, whole=True), metavar="N", help="seed of the sampling"
    )
    group.add_argument("--quantization", choices=["auto", "none", "nf4", "fp4", "int8"])
    group.add_argument("--adapter", metavar="DIR", help="a PEFT adapter on top of the model")
    group.add_argument(
        "--merge-adapter", action="store_const", const=True, help="fold the adapter into the weights"
    )
    group.add_argument("--device", metavar="NAME", help="auto, cpu or cuda")
    group.add_argument("--require-gpu", action="store_const", const=True, help="refuse to run without a GPU")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Which document store."""
    group = parser.add_argument_group("documents")
    group.add_argument("--store", dest="store_dir", metavar="DIR", help="folder of the document store")
    group.add_argument("--chroma", metavar="URL", help="a Chroma server that holds the index")


def settings_from(args: argparse.Namespace) -> Settings:
    """Settings from all sources, the command line first; raises ConfigError."""
    from agent.errors import ConfigError
    from agent.settings import Settings, load_settings, nearest_setting, silence_telemetry

    given: dict[str, Any] = {name: getattr(args, name, None) for name in SETTINGS}
    for name, value in getattr(args, "model_options", []):
        if name not in Settings.model_fields:
            raise ConfigError(f"expected a model option after -o, found {name!r}{nearest_setting(name)}")
        given[name] = value
    if isinstance(given.get("system"), str):
        given["system"] = readable(given["system"])
    settings = load_settings(**given)
    if not settings.telemetry:
        silence_telemetry()
    return settings


def filter_from(args: argparse.Namespace) -> dict[str, Any]:
    """The search filter that `--filter FIELD VALUE` asks for; a field given twice may have either value."""
    wanted: dict[str, Any] = {}
    for field, value in args.filter:
        wanted.setdefault(field, []).append(value)
    return wanted


def words_of(words: list[str]) -> str:
    """The words of the command line as one text; bytes that are no UTF-8 show as \ufffd."""
    return readable(" ".join(words).strip())


def readable(text: str) -> str:
    """The text without what Python makes of bytes that are no UTF-8, which nothing can write or send on."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
