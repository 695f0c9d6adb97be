"""Errors in the words of the command line.

click's complaints become one line that ends with the next step (`usage_message`). The messages of our
libraries speak Python, because a program may have called them: they name arguments (`max_tokens=64`) and
calls (`llms.models.pull("mistral-7b")`). `library_message` turns these into options and commands:

    >>> from agent.cli.ask import ask
    >>> library_message(ValueError("the answer is cut; raise max_tokens=64"), click.Context(ask))
    'the answer is cut; raise --max-tokens 64'
    >>> in_options('found none; run `llms.models.pull("mistral-7b")`', None)
    'found none; run `agent models pull mistral-7b`'
"""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from typing import Any

import click

COMMANDS = {
    "llms.models.ls": "models list",
    "llms.models.pull": "models pull",
    "llms.models.remove": "models rm",
    "llms.models.show": "models show",
    "llms.diagnose": "doctor",
    "store.export": "docs export",
    "store.ingest": "ingest",
    "store.remove": "docs remove",
    "store.sources": "docs list",
    "store.stats": "docs stats",
    "store.verify": "docs verify",
    "DocumentStore.repair": "docs verify --repair",
}
"""Python calls that messages and hints name, and the commands that do the same.

A command with an option does all that the call does, so the call's arguments are dropped.
"""

OTHER_NAMES = {
    "max_file_bytes": "max_bytes",
    "precision": "embedding_precision",
    "store": "store_dir",
}
"""Arguments whose option is stored under another name."""

_CALL = re.compile(r"(?<![\w.])(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*\([^()]*\)")
_ARGUMENT = re.compile(
    r"""(?<![^\s`(])(?P<name>[a-z][a-z_]*)="""
    r"""(?P<value>"[^"]*"|'[^']*'|-?\d[\d_]*(?:\.\d+)?|(?:True|False|None)\b|[A-Z][A-Z_]*\b|(?![\w'"=/-]|\.\w))"""
)
"""An argument with a Python literal, an upper-case placeholder, or nothing behind its `=`."""


def usage_message(error: click.UsageError) -> str:
    """Return one line about wrong usage: what was expected, what was found, and the next step."""
    command = error.ctx.command if error.ctx is not None else None
    path = error.ctx.command_path if error.ctx is not None else "agent"
    if command is None or isinstance(command, click.Group):
        return f"{path}: {error.message}"  # `VerbGroup` has put the next step into it
    hint = f"`{path} --help` lists the options"
    if isinstance(error, click.NoSuchOption):
        message = f"expected words and options of this verb, found {error.option_name!r}"
        known = [name for param in command.params for name in (*param.opts, *param.secondary_opts)]
        if close := difflib.get_close_matches(error.option_name, known, n=1):
            hint = f"did you mean {close[0]}?"
    elif isinstance(error, click.BadOptionUsage):
        message = _wrong_count(command, error.option_name)
    elif isinstance(error, click.MissingParameter) and error.param is not None:
        message = f"expected {_shown(error.param)}, found none"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        message = f"{'/'.join(error.param.opts)}: {error.message}"
    else:
        message = error.message
    return f"{path}: {message}; {hint}"


def _wrong_count(command: click.Command, name: str) -> str:
    option = next(param for param in command.params if name in (*param.opts, *param.secondary_opts))
    names = "/".join(option.opts)
    if isinstance(option, click.Option) and option.is_flag:
        return f"{names}: expected no argument, found one"
    return f"{names}: expected {'one argument' if option.nargs == 1 else f'{option.nargs} arguments'}"


def _shown(param: click.Parameter) -> str:
    metavar = (param.metavar or param.name or "").removesuffix("...")
    return f"{param.opts[0]} {metavar}" if isinstance(param, click.Option) else metavar


def library_message(error: Exception, ctx: click.Context | None) -> str:
    """Return an error's text and its hint in the words of the command line.

    An error may have an attribute `hint`, a Python call that mends it; it is shown once. Text that is written
    for the command line already stays as it is.
    """
    text = in_options(str(error), ctx)
    hint = getattr(error, "hint", None)
    if not isinstance(hint, str) or not hint:
        return text
    shown = in_options(hint, ctx)
    return text if shown in text else f"{text}; run `{shown}`"


def in_options(text: str, ctx: click.Context | None) -> str:
    """Return the text with options for Python arguments, and commands for the calls in `COMMANDS`.

    `ctx` is the context of the verb that runs, whose options are used. Calls that have no command, and
    arguments that have no option, stay as they are.
    """
    parts, end = [], 0
    for call in _CALL.finditer(text):
        parts += [_arguments(text[end : call.start()], ctx), _command_for(call[0], ctx)]
        end = call.end()
    return "".join([*parts, _arguments(text[end:], ctx)])


def _arguments(text: str, ctx: click.Context | None) -> str:
    command = ctx.command if ctx is not None else None

    def replaced(found: re.Match[str]) -> str:
        value = _literal(found["value"])
        return _option_for(found["name"], value, command) or found[0]

    return _ARGUMENT.sub(replaced, text)


def _literal(source: str) -> Any:
    """Return the value of a Python literal; a placeholder such as NAME is its own value."""
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return source


def _option_for(name: str, value: Any, command: click.Command | None) -> str | None:
    """Return how an argument is given on the command line; None if it cannot be.

    A setting without an option of its own is given by `-o`, or kept with `agent config set` if the verb has
    no `-o`.
    """
    name = OTHER_NAMES.get(name, name)
    params = {param.name: param for param in command.params} if command is not None else {}
    given = "" if value == "" else f" {shlex.quote(str(value))}"
    if isinstance(option := params.get(name), click.Option):
        spelled = max(option.opts, key=len)
        if not option.is_flag:
            return spelled + given
        off = option.secondary_opts[0] if option.secondary_opts else f"no {spelled}"
        return off if value in (False, None) else spelled
    if not _is_setting(name):
        return None
    return f"-o {name}{given}" if "model_options" in params else f"`agent config set {name}{given}`"


def _is_setting(name: str) -> bool:
    from agent.settings import Settings

    return name in Settings.model_fields


def _command_for(call: str, ctx: click.Context | None) -> str:
    """Return the command that does what a Python call does; the call itself if there is none."""
    try:
        tree = ast.parse(call, mode="eval").body
    except SyntaxError:
        return call
    if not isinstance(tree, ast.Call) or (command := COMMANDS.get(ast.unparse(tree.func))) is None:
        return call
    if " -" in command:
        return f"agent {command}"
    program = ctx.find_root().command if ctx is not None else None
    verb = program.get_command(ctx, command.split()[0]) if ctx and isinstance(program, click.Group) else None
    words = [command, *(shlex.quote(_argument(argument)) for argument in tree.args)]
    for keyword in tree.keywords:
        given = _option_for(keyword.arg or "", _literal(ast.unparse(keyword.value)), verb)
        if given is not None and given not in command:
            words.append(given)
    return f"agent {' '.join(words)}"


def _argument(node: ast.expr) -> str:
    """Return an argument as a word of the command line; a variable becomes a placeholder."""
    return node.id.upper() if isinstance(node, ast.Name) else str(_literal(ast.unparse(node)))


__all__ = ["COMMANDS", "in_options", "library_message", "usage_message"]
