"""Building blocks of the verbs: the command class, shared options, option types, and the settings.

A verb is a function that takes the parsed options and returns an exit code:

    >>> @verb(
    ...     words("paths", metavar="PATH...", help="a file or a folder"),
    ...     flag("--dry-run", help="change nothing"),
    ... )
    ... def look(args: Args) -> int:
    ...     print(args.paths, args.dry_run)
    ...     return 0
    >>> look.invoke(look.make_context("look", ["notes", "--dry-run", "a.md"]))
    ['notes', 'a.md'] True
    0
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from agent.cli import console

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from agent.build import Parts
    from agent.settings import Settings

Args: TypeAlias = SimpleNamespace
"""The parsed options of a verb, as attributes."""

SETTINGS = (
    "home", "model", "quantization", "adapter", "merge_adapter", "device", "require_gpu", "download",
    "temperature", "top_p", "max_tokens", "seed", "window", "system", "store_dir", "chroma", "k", "approve",
    "planner", "files", "embedding_precision", "embeddings",
)  # fmt: skip
"""Settings that an option of the same name can give."""

_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")


class VerbOption(click.Option):
    """An option that is listed in a section of the help."""

    section = "options"


class VerbWords(click.Argument):
    """The words of a verb, described in its help."""

    section = "words"

    def __init__(self, *args: Any, help: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the words as the usage line shows them, and what they are."""
        return " ".join(self.get_usage_pieces(ctx)), self.help or ""


def option(*names: str, **attributes: Any) -> VerbOption:
    """Return an option that takes a value; `attributes` are those of click.Option."""
    return VerbOption(names, **attributes)


def flag(*names: str, **attributes: Any) -> VerbOption:
    """Return an option without a value."""
    return VerbOption(names, is_flag=True, **attributes)


def section(title: str, *options: VerbOption) -> tuple[VerbOption, ...]:
    """Return the options, listed under `title` in the help of every verb that takes them."""
    for one in options:
        one.section = title
    return options


def words(name: str, *, nargs: int = -1, required: bool = False, **attributes: Any) -> VerbWords:
    """Return the words of a verb: any number of them, or `nargs`."""
    return VerbWords([name], nargs=nargs, required=required, **attributes)


def action(*choices: str, default: str) -> VerbWords:
    """Return the first word of a verb that has several actions."""
    listed = f"{', '.join(choices[:-1])} or {choices[-1]} ({default})"
    return words("action", nargs=1, type=OneOf(choices), default=default, metavar="[ACTION]", help=listed)


COMMON_OPTIONS = section(
    "common options",
    flag("--debug", help="show the traceback of an error"),
    option("--home", metavar="DIR", help="keep everything of ours under this folder (AGENT_HOME)"),
    flag("--quiet", help="no progress and no notices on stderr"),
)


class Verb(click.Command):
    """A click command whose function takes all options as one object.

    Words and options may come in any order, and what follows `--` is words. Words that begin with a dash
    but cannot be options, such as `-5 + 3`, are words too.
    """

    def __init__(self, function: Callable[[Args], int], params: Sequence[click.Parameter]) -> None:
        super().__init__(
            function.__name__,
            callback=function,
            params=[*params, *COMMON_OPTIONS],
            help=function.__doc__,
            context_settings={
                "allow_extra_args": True,  # `parse_args` refuses them in our own words.
                "help_option_names": ["-h", "--help"],
                "max_content_width": 100,
            },
        )

    def invoke(self, ctx: click.Context) -> int:
        """Run the verb and return its exit code."""
        assert self.callback is not None
        args = Args(**{name: list(v) if isinstance(v, tuple) else v for name, v in ctx.params.items()})
        console.configure(quiet=args.quiet, context=ctx)
        return int(ctx.invoke(self.callback, args))

    def make_parser(self, ctx: click.Context) -> Any:
        """Return click's parser, changed where click has no setting for it.

        Negative numbers and sentences that begin with a dash are words. `-k=3` is `-k 3`. The value of an
        option is never another option, so `--out --force` is an error and not a file called `--force`.
        """
        parser: Any = super().make_parser(ctx)
        options = {
            name: param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
            for name in (*param.opts, *param.secondary_opts)
        }
        take_option = parser._process_opts

        def take(arg: str, state: Any) -> None:
            name, equals, value = arg.partition("=")
            option = options.get(name)
            if option is None and arg[:2] not in options and (" " in arg or _NEGATIVE.fullmatch(arg)):
                state.largs.append(arg)
                return
            if option is not None and not option.is_flag:
                if equals and len(name) == 2:
                    state.rargs.insert(0, value)
                    arg = name
                elif not equals and {"--", *options} & set(state.rargs[: option.nargs]):
                    raise click.BadOptionUsage(name, "an option stands in place of a value", ctx)
            take_option(arg, state)

        parser._process_opts = take
        return parser

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; raises click.UsageError, also for words that the verb does not take."""
        try:
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click names no verb if an option lacks its value
            raise
        if rest and not ctx.resilient_parsing:
            found = " ".join(rest)
            raise click.UsageError(f"expected words and options of this verb, found {found!r}", ctx)
        return rest

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line, what the verb does, and its words and options section by section."""
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix="usage: ")
        formatter.write(f"\n{self.help}\n")
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(param, "section", "common options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def verb(*params: click.Parameter) -> Callable[[Callable[[Args], int]], Verb]:
    """Make a command of a function that takes the parsed options and returns the exit code."""
    return lambda function: Verb(function, params)


class OneOf(click.Choice):  # type: ignore[type-arg]  # click's types are generic since 8.2 only
    """A word that is one of a few."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word; raises click.BadParameter for another one."""
        if value not in self.choices:
            known = ", ".join(map(repr, self.choices))
            self.fail(f"invalid choice: {value!r} (choose from {known})", param, ctx)
        return value


class FileName(click.ParamType):  # type: ignore[type-arg]
    """A path, completed by the shell and not looked at before it is used."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave the completion to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def number(low: float, high: float, *, whole: bool = False) -> Callable[[str], float]:
    """Return an option type: a number from `low` to `high`.

    >>> number(1, 32768, whole=True)("64")
    64
    """

    def convert(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise click.BadParameter(f"expected {kind} from {low:,} to {high:,}, found {text!r}")
        return value

    return convert


def completed_from(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Return a completion callback for click that offers `names()`, or nothing if that raises."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        try:
            return [name for name in names() if name.startswith(incomplete)]
        except Exception:  # A traceback would end up in the line that the user is typing.
            return []

    return complete


def model_names() -> list[str]:
    """Return the names and aliases of the models in the catalog."""
    from llms.models.catalog import names

    return names()


def template_names() -> list[str]:
    """Return the names of the user's prompt templates."""
    from agent.settings import load_settings
    from agent.storage.templates import list_templates

    return list_templates(load_settings().folders.templates)


def setting_names() -> list[str]:
    """Return the names of all settings."""
    from agent.settings import Settings

    return list(Settings.model_fields)


FILE = FileName()
JSON = flag("--json", help="print one JSON object")

MODEL_OPTIONS = section(
    "model",
    option("-m", "--model", metavar="NAME", shell_complete=completed_from(model_names),
           help="model name, Hub id, folder or GGUF file"),
    option("-s", "--system", metavar="TEXT", help="system prompt"),
    option("-o", "model_options", nargs=2, multiple=True, metavar="NAME VALUE",
           help="any other model option, such as -o top_p 0.9"),
    option("--temperature", type=number(0, 5), metavar="T", help="0 is greedy"),
    option("--max-tokens", type=number(1, 32768, whole=True), metavar="N", help="longest answer"),
    option("--seed", type=number(0, 2**63 - 1, whole=True), metavar="N", help="seed of the sampling"),
    option("--quantization", type=OneOf(["auto", "none", "nf4", "fp4", "int8"]), help="form of the weights"),
    option("--adapter", type=FILE, metavar="DIR", help="a PEFT adapter on top of the model"),
    flag("--merge-adapter", flag_value=True, default=None, help="fold the adapter into the weights"),
    option("--device", metavar="NAME", help="auto, cpu or cuda"),
    flag("--require-gpu", flag_value=True, default=None, help="refuse to run without a GPU"),
    flag("--download", flag_value=True, default=None, help="download the model if it is not here"),
)  # fmt: skip
"""Which model runs, how it is loaded, and how it samples."""

STORE_OPTIONS = section(
    "documents",
    option("--store", "store_dir", type=FILE, metavar="DIR", help="folder of the document store"),
    option("--chroma", metavar="URL", help="a Chroma server that holds the index"),
    option(
        "--embeddings",
        metavar="NAME",
        help="a sentence-transformers model, a folder or Hub id, for a new store or with --reembed",
    ),
)
"""Which document store is used."""


def settings_from(args: Args) -> Settings:
    """Return the settings from all sources, the command line first; raises ConfigError."""
    from agent.errors import ConfigError
    from agent.settings import Settings, load_settings, nearest_setting, silence_telemetry

    given: dict[str, Any] = {name: getattr(args, name, None) for name in SETTINGS}
    given["files"] = given["files"] or None  # An option that was not given leaves the setting as it is.
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


def parts_from(args: Args, **more: Any) -> Parts:
    """Return the parts that the options ask for; their model's notices are shown as ours."""
    from agent.build import Parts

    return Parts(settings_from(args), notify=console.notify, **more)


def filter_from(args: Args) -> dict[str, Any]:
    """Return the search filter of `--filter`; a field that is given twice may have either value."""
    wanted: dict[str, Any] = {}
    for field, value in args.filter:
        wanted.setdefault(field, []).append(value)
    return wanted


def words_of(words: Sequence[str]) -> str:
    """Return the words of the command line as one text; bytes that are not UTF-8 become \ufffd.

    >>> words_of(["what", "is", "NF4?"])
    'what is NF4?'
    """
    return readable(" ".join(words).strip())


def readable(text: str) -> str:
    """Replace Python's stand-ins for bytes that are not UTF-8, which cannot be written or sent, by \ufffd."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
